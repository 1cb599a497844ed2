"""A small run's summary and evidence, made by hand, with two classes or with several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import pytest

from fedpipe.data import CategoricalColumn, Label, NumericColumn, Schema
from fedpipe.learning.evaluation import Estimate, Metrics
from fedpipe.learning.score_curves import ReliabilityPoint, RocPoint
from fedpipe.learning.slices import Slice, SliceGroup
from fedpipe.ledger.certificate import Certificate, Commitment, Dropout
from fedpipe.ledger.certificate_making import make_certificate
from fedpipe.pipeline.records import ArtifactRecord, ExecutionRecord
from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query
from fedpipe.reports.evidence import (
    Budget,
    Curves,
    DataCounts,
    RoundEvidence,
    RunEvidence,
    VersionEvidence,
)
from fedpipe.reports.summary import Paths, RunSummary, SimulationOnly

CLIENTS = ("clinic-1", "clinic-2")


def _plan(*, private: bool, randomness: str) -> PrivacyPlan:
    labels = Query(
        step="statistics",
        splits=("train", "eval"),
        mechanism=NoisyHistograms(noise_stddev=10, num_histograms=1),
    )
    columns = Query(
        step="statistics",
        splits=("train", "eval"),
        mechanism=NoisyHistograms(noise_stddev=10, num_histograms=3),
    )
    training = Query(
        step="train",
        splits=("train",),
        mechanism=DpSgd(
            sampling_probability=0.2, clipping_norm=1, noise_multiplier=4, num_rounds=5, local_steps=1
        ),
    )
    queries = {"labels": labels, "columns": columns, "training": training} if private else {}
    return PrivacyPlan.model_validate(
        {
            "private": private,
            "epsilon": 2.0,
            "delta": 1e-5,
            "keyed": True,
            "randomness": randomness,
            "queries": queries,
        }
    )


@lru_cache(maxsize=8)
def _certificate(private: bool, randomness: str, dropouts: tuple[Dropout, ...]) -> Certificate:
    return make_certificate(
        _plan(private=private, randomness=randomness),
        run_id="run-1",
        model="tumours",
        model_version=3,
        commitments=tuple(Commitment(client=name, span="undated", hmac_sha256="ab" * 32) for name in CLIENTS),
        dropouts=dropouts,
        versions={"fedpipe": "0.1.0"},
    )


def _metrics(auc: tuple[float, float, float]) -> Metrics:
    def estimate(lower: float, middle: float, upper: float) -> Estimate:
        return Estimate(lower=lower, estimate=middle, upper=upper)

    return Metrics(
        auc=estimate(*auc),
        average_precision=estimate(0.5, 0.6, 0.7),
        log_loss=estimate(0.2, 0.3, 0.4),
        brier=estimate(0.1, 0.2, 0.3),
        accuracy=estimate(0.6, 0.7, 0.8),
        majority_accuracy=estimate(0.5, 0.55, 0.6),
    )


@pytest.fixture
def make_certificate_of() -> Callable[..., Certificate]:
    """Makes the certificate of a run with two counting queries and five rounds of training."""

    def make(
        *, private: bool = True, randomness: str = "secure", dropouts: tuple[Dropout, ...] = ()
    ) -> Certificate:
        return _certificate(private, randomness, dropouts)

    return make


@pytest.fixture
def make_summary() -> Callable[..., RunSummary]:
    """Makes a run's summary around a certificate."""

    def make(
        certificate: Certificate,
        *,
        simulated: bool = False,
        auc: tuple[float, float, float] = (0.8, 0.85, 0.9),
        warnings: tuple[str, ...] = (),
    ) -> RunSummary:
        exact = SimulationOnly(
            exact_metrics={"auc": 0.87654}, baseline={"auc": 0.95432}, num_examples={"total": 7531}
        )
        return RunSummary(
            run_id="run-1",
            status="COMPLETE",
            name="tumours",
            model_version="tumours:3",
            privacy=certificate.privacy,
            metrics=_metrics(auc),
            better_than_chance=auc[0] > 0.5,
            num_clients=len(CLIENTS),
            rounds=5,
            warnings=warnings,
            simulation_only=exact if simulated else None,
            paths=Paths(report="/w/r/x", model="/w/m", certificate="/w/c", workspace="/w"),
            timings_seconds={"ingest": 0.5, "train": 2.0},
        )

    return make


@pytest.fixture
def make_evidence() -> Callable[..., RunEvidence]:
    """Makes the evidence behind a certificate, with as many classes as are named."""

    def make(
        certificate: Certificate,
        *,
        classes: Sequence[str] = ("benign", "malignant"),
        noise_stddev: float = 10.0,
        clients: Sequence[str] = CLIENTS,
        refusals: dict[str, str] | None = None,
    ) -> RunEvidence:
        table = [[20 + index for index in range(len(classes))] + [-3], [9] * len(classes) + [0]]
        return RunEvidence(
            description="Tell tumours apart.",
            created_at="2024-01-02T03:04:05+00:00",
            schema=Schema(
                label=Label(name="diagnosis", classes=dict.fromkeys(classes, ())),
                columns={
                    "radius": NumericColumn(minimum=5, maximum=40),
                    "ward": CategoricalColumn(type="categorical", vocabulary=("north", "south")),
                },
            ),
            certificate=certificate,
            counts=DataCounts(
                label_counts=dict.fromkeys(clients, table),
                column_health={"radius": [120, 4, -2, 0], "ward": [118, 80, 1, 0]},
                label_noise_stddev=noise_stddev,
                column_noise_stddev=noise_stddev,
                findings=(),
                refusals=refusals or {},
            ),
            curves=_curves(binary=len(classes) == 2),
            executions=_executions(),
            artifacts=(_artifact("spans", "ingest"), _artifact("model", "train")),
            settings={
                "name": "tumours",
                "training": {"num_rounds": 5, "auto": True},
                "privacy": {"cap": None},
            },
            slices=_slices(binary=len(classes) == 2, reach=2 * noise_stddev),
            rounds=tuple(
                RoundEvidence(
                    server_round=n, num_answered=2, update_norm=0.1 * n, noise_norm=noise_stddev / 50
                )
                for n in range(1, 6)
            ),
            budgets=(
                Budget(split="train", epsilon=3.5, delta=1e-5, used=1 / 3, by_this_run=0.25, runs_left=2),
            ),
            versions=tuple(_version(number) for number in (2, 3)),
        )

    return make


def _estimate(value: float, reach: float = 0.05) -> Estimate:
    return Estimate(estimate=value, lower=value - reach, upper=value + reach)


def _slices(*, binary: bool, reach: float) -> tuple[SliceGroup, ...]:
    count = Estimate(estimate=200, lower=200 - reach, upper=200 + reach)
    two = {"predicted": _estimate(0.8), "auc": _estimate(0.7)} if binary else {}
    shown = Slice(name="north", count=count, observed=_estimate(0.4), **two)
    return (SliceGroup(column="ward", slices=(shown,), too_few=("south", "west")),)


def _version(number: int) -> VersionEvidence:
    return VersionEvidence(
        version=number,
        created_at="2024-01-02T03:04:05+00:00",
        epsilon=2.0,
        auc=_estimate(0.8),
        brier=_estimate(0.2),
    )


def _curves(*, binary: bool) -> Curves:
    if not binary:
        return Curves(roc=(), reliability=(), noise_stddev=2.0)
    corners = ((1.0, 0.0, 0.0), (0.5, 0.25, 0.75), (0.0, 1.0, 1.0))
    return Curves(
        roc=tuple(RocPoint(threshold=t, false_positive_rate=f, true_positive_rate=p) for t, f, p in corners),
        reliability=(
            ReliabilityPoint(mean_predicted=0.25, observed_rate=0.5, count=100),
            ReliabilityPoint(mean_predicted=0.75, observed_rate=1.0, count=4),
        ),
        noise_stddev=2.0,
    )


def _executions() -> tuple[ExecutionRecord, ...]:
    tries = (("ingest", "COMPLETE"), ("train", "FAILED"), ("train", "COMPLETE"))
    return tuple(
        ExecutionRecord(
            id=index,
            run_id="run-1",
            step=step,
            state=state,  # type: ignore[arg-type]
            fingerprint="f",
            started_at="2024-01-02T03:04:05+00:00",
            duration_seconds=1.5,
            message="a private detail" if state == "FAILED" else "",
            payloads={"weights.npy": "cd" * 32} if step == "train" else {},
            parts={},
            because="",
        )
        for index, (step, state) in enumerate(tries)
    )


def _artifact(name: str, step: str) -> ArtifactRecord:
    return ArtifactRecord(
        name=name,
        type_name=name.title(),
        uri=f"runs/run-1/{name}.json",
        digest="ef" * 32,
        id=1,
        run_id="run-1",
        step=step,
    )
