"""The cycle: its steps, and what each takes, makes and depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fedpipe.config import Config
from fedpipe.data.balance import Balance
from fedpipe.data.transform import Transform
from fedpipe.federation.training_state import CHECKPOINT
from fedpipe.files import ordered_json, sha256
from fedpipe.learning.builders import builder_digest
from fedpipe.pipeline import MetadataReader, MetadataStore, Pipeline, Progress, Step, Workspace
from fedpipe.pipeline.artifacts import are_payloads_intact
from server import artifacts
from server.history import statistics_before
from server.operator_key import operator_key
from server.registry import next_version
from server.steps.analyze import analyze
from server.steps.asking import Asker
from server.steps.deploy import deploy
from server.steps.ingest import ingest
from server.steps.preprocess import preprocess
from server.steps.register import register
from server.steps.statistics import gather_statistics
from server.steps.train import train
from server.steps.validate import validate

OPERATIONAL = {"round_timeout_seconds", "max_retries"}
"""Training settings that decide how long to wait and how often to ask, never what is made of the answers."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What steps need besides artifacts.

    `seed` fixes initial weights, never noise or sampling. `signing_key` is the operator's, if it is not
    the workspace's own.
    """

    config: Config
    asker: Asker
    workspace: Workspace
    metadata: MetadataStore
    progress: Progress
    clock: Callable[[], datetime]
    seed: int
    signing_key: Path | None = None

    @property
    def weights_directory(self) -> Path:
        """Where `train` keeps the weights."""
        return self.workspace.step_dir(self.asker.run_id, "train")

    def reading(self) -> dict[str, Any]:
        """Returns how records are read; the order of columns and classes is part of it."""
        schema = self.asker.terms.data_schema.model_dump(mode="json")
        order = sha256(ordered_json(schema).encode())
        return {
            "schema": schema,
            "schema_order": order,
            "eval_fraction": self.asker.terms.eval_fraction,
            "spans": list(self.asker.terms.spans),
        }

    def release(self, step: str) -> dict[str, Any]:
        """Returns the unit and the mechanisms of the step: other noise is another result and another cost."""
        plan = self.asker.terms.plan
        queries = {name: query for name, query in plan.queries.items() if query.step == step}
        return {
            "private": plan.private,
            "unit": plan.user.model_dump(mode="json") if plan.user else plan.unit,
            "randomness": plan.randomness,
            "queries": {name: query.model_dump(mode="json") for name, query in queries.items()},
        }


def make_pipeline(around: Surroundings) -> Pipeline:
    """Returns the steps, bound to what they need besides artifacts."""
    makers = (_ingest, _statistics, _validate, _preprocess, _train, _analyze, _register, _deploy)
    return Pipeline([make(around) for make in makers])


def _ingest(around: Surroundings) -> Step:
    return Step(
        name="ingest",
        function=partial(ingest, asker=around.asker),
        inputs=(),
        outputs={"spans": artifacts.Spans},
        settings=around.reading(),
        cacheable=False,
    )


def _statistics(around: Surroundings) -> Step:
    return Step(
        name="statistics",
        function=partial(gather_statistics, asker=around.asker),
        inputs=("spans",),
        outputs={"statistics": artifacts.Statistics},
        settings=around.reading() | around.release("statistics"),
    )


def _validate(around: Surroundings) -> Step:
    terms, settings = around.asker.terms, around.config.validation
    reference = statistics_before(terms, around.metadata, around.workspace, pipeline=around.config.name)
    return Step(
        name="validate",
        function=partial(validate, schema=terms.data_schema, settings=settings, reference=reference),
        inputs=("statistics",),
        outputs={"anomalies": artifacts.Anomalies, "balance": Balance},
        settings=around.reading()
        | {
            "validation": settings.model_dump(mode="json"),
            "reference": reference.model_dump(mode="json") if reference else None,
        },
    )


def _preprocess(around: Surroundings) -> Step:
    return Step(
        name="preprocess",
        function=partial(preprocess, asker=around.asker),
        inputs=("spans", "statistics"),
        outputs={"transform": Transform},
        settings=around.reading()
        | around.release("preprocess")
        | {"preprocess": around.asker.terms.preprocess.model_dump(mode="json")},
    )


def _train(around: Surroundings) -> Step:
    terms = around.asker.terms
    return Step(
        name="train",
        function=partial(
            train,
            asker=around.asker,
            seed=around.seed,
            on_round=partial(around.progress.step_progress, "train"),
            on_note=around.progress.note,
        ),
        inputs=("spans", "statistics", "transform", "balance"),
        outputs={"model": artifacts.Model},
        scratch=(CHECKPOINT,),
        settings=around.reading()
        | around.release("train")
        | {
            "seed": around.seed,
            "model": terms.model.model_dump(mode="json", exclude={"name"}),  # only `register` uses it
            "builder": builder_digest(terms.model.builder) if terms.model.builder else None,
            "training": terms.training.model_dump(mode="json", exclude=OPERATIONAL),
        },
    )


def _analyze(around: Surroundings) -> Step:
    settings = around.config.analyze
    unused = set() if settings.slices else {"slice_bins"}
    return Step(
        name="analyze",
        function=partial(
            analyze,
            asker=around.asker,
            settings=settings,
            weights_directory=around.weights_directory,
            seed=around.seed,
        ),
        inputs=("spans", "statistics", "transform", "model"),
        outputs={"evaluation": artifacts.Evaluation},
        settings=around.reading()
        | around.release("analyze")
        | {"seed": around.seed, "analyze": settings.model_dump(mode="json", exclude=unused)},
    )


def _register(around: Surroundings) -> Step:
    terms = around.asker.terms
    return Step(
        name="register",
        function=partial(
            register,
            asker=around.asker,
            next_version=partial(next_version, around.metadata, around.workspace),
            made_by=partial(_made_by, around.metadata, around.asker.run_id),
            key=partial(operator_key, around.workspace, around.signing_key),
            clock=around.clock,
        ),
        inputs=("spans", "transform", "model", "evaluation"),
        outputs={"model_version": artifacts.ModelVersion},
        settings={"plan": terms.plan.model_dump(mode="json"), "model": terms.model.name},
    )


def _deploy(around: Surroundings) -> Step:
    return Step(
        name="deploy",
        function=partial(
            deploy, models_dir=around.workspace.models_dir, weights_directory=around.weights_directory
        ),
        inputs=("model", "model_version"),
        outputs={"pushed_model": artifacts.PushedModel},
        settings={},
        still_holds=partial(_is_served, around.workspace),
    )


def _made_by(metadata: MetadataReader, run_id: str) -> dict[str, str]:
    """Returns, by step, the run that made what this run uses."""
    return {record.step: record.run_id for record in metadata.artifacts(run_id)}


def _is_served(workspace: Workspace, outputs: Mapping[str, BaseModel]) -> bool:
    pushed = outputs["pushed_model"]
    return isinstance(pushed, artifacts.PushedModel) and are_payloads_intact(
        workspace.root / pushed.path, pushed.files
    )
