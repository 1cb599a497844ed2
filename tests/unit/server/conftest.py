"""Clients that answer what a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fedpipe.data import Transform
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import ModelDefinition
from fedpipe.learning.evaluation import Estimate, Metrics
from fedpipe.ledger.certificate import Certificate
from fedpipe.ledger.certificate_making import make_certificate
from fedpipe.privacy import PrivacyPlan
from server.artifacts import ModelVersion
from server.steps.asking import Asker

AGE = {"type": "numeric", "column": "age", "lower": 0.0, "upper": 1.0, "center": 0.0, "scale": 1.0}
TRANSFORM = {"features": [AGE], "missing_tokens": [""]}

Answer = Reply | Refusal


class FakeClients:
    """Answers each step with what `answers` holds for it, and remembers the requests."""

    def __init__(self, answers: Mapping[str, list[Answer]]) -> None:
        self.answers = dict(answers)
        self.requests: list[Request] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        found = self.answers.get(request.step, [])
        return (
            [answer for answer in found if isinstance(answer, Reply)],
            [answer for answer in found if isinstance(answer, Refusal)],
        )


@pytest.fixture
def make_asker(make_terms: Callable[..., RunTerms]) -> Callable[..., Asker]:
    """Returns an asker whose clients answer `answers`, by step; other arguments change the terms."""

    def make(answers: Mapping[str, list[Answer]], **changes: Any) -> Asker:
        return Asker(clients=FakeClients(answers), run_id="run-1", terms=make_terms(**changes))

    return make


@pytest.fixture
def counts() -> Callable[..., Reply]:
    """Returns a client's answer to `validate`: [no, yes, unknown] of both splits, health of two columns."""

    def make(
        client: str, train: list[int], held_out: list[int] | None = None, age: list[int] | None = None
    ) -> Reply:
        labels = np.array([[train, held_out or [1, 1, 0]]], dtype=np.int64)
        health = np.array([age or [sum(train), 0, 0, 0], [sum(train), 0, 0, 0]], dtype=np.int64)
        return Reply(client=client, arrays={"labels": labels, "columns": health})

    return make


@lru_cache
def _certificate(plan: str) -> Certificate:
    return make_certificate(
        PrivacyPlan.model_validate_json(plan),
        run_id="run-1",
        model="illness",
        model_version=2,
        commitments=(),
        dropouts=(),
    )


@pytest.fixture
def make_version(make_terms: Callable[..., RunTerms]) -> Callable[..., ModelVersion]:
    """Returns version 2 of the model `illness`, with `changes`."""

    def make(**changes: Any) -> ModelVersion:
        terms, transform = make_terms(), Transform.model_validate(TRANSFORM)
        estimate = Estimate(estimate=0.7, lower=0.6, upper=0.8, level=0.95)
        certificate = _certificate(terms.plan.model_dump_json())
        values = {
            "name": "illness",
            "version": 2,
            "run_id": "run-1",
            "created_at": "2024-01-02T03:04:05+00:00",
            "privacy": certificate.privacy,
            "metrics": Metrics(**dict.fromkeys(Metrics.model_fields, estimate)),
            "better_than_chance": True,
            "class_names": ("no", "yes"),
            "columns": ("age",),
            "data_schema": terms.data_schema,
            "transform": transform,
            "definition": ModelDefinition.make(terms.model, transform, 2),
            "certificate": certificate,
        }
        return ModelVersion.model_validate(values | changes)

    return make
