"""What a finished simulated run came to: its own artifacts, and the referee's exact figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from fedpipe.config import Config
from fedpipe.errors import WorkspaceError
from fedpipe.files import digest_json
from fedpipe.ledger import Ledger
from fedpipe.pipeline import MetadataStore, Workspace
from fedpipe.pipeline.cache import USABLE
from fedpipe.pipeline.records import ArtifactRecord, ExecutionRecord
from fedpipe.reports.evidence import (
    Budget,
    Curves,
    DataCounts,
    Finding,
    Repetition,
    RoundEvidence,
    RunEvidence,
    VersionEvidence,
)
from fedpipe.reports.summary import Paths, RunSummary
from server.artifacts import Anomalies, Evaluation, Model, ModelVersion, PushedModel, Spans, Statistics
from server.claims import read_claim
from server.registry import readable_versions
from simulations.budgets import read_budgets
from simulations.population import Population
from simulations.referee import judge_once

REPORT = "report.html"

ArtifactType = TypeVar("ArtifactType", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made, and how: all of it charged or public."""

    workspace: Workspace
    run_id: str
    config: Config
    spans: Spans
    statistics: Statistics
    anomalies: Anomalies
    model: Model
    evaluation: Evaluation
    version: ModelVersion
    pushed: PushedModel
    executions: tuple[ExecutionRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    versions: tuple[VersionEvidence, ...]


def read_outcome(workspace: Workspace, run_id: str, config: Config) -> Outcome:
    """Returns the outcome of a run whose steps are all complete.

    Raises:
      WorkspaceError: an artifact of the run is gone or damaged.
    """
    metadata = MetadataStore.open(workspace.metadata_path)
    artifacts = tuple(metadata.artifacts(run_id))

    def load(name: str, kind: type[ArtifactType]) -> ArtifactType:
        uris = [record.uri for record in artifacts if record.name == name]
        try:
            return kind.model_validate_json((workspace.root / uris[-1]).read_bytes())
        except (IndexError, OSError, ValueError) as error:
            raise WorkspaceError(
                f"Expected artifact {name} of run {run_id}, found none that can be read: go on with --resume."
            ) from error

    version = load("model_version", ModelVersion)
    return Outcome(
        workspace=workspace,
        run_id=run_id,
        config=config,
        spans=load("spans", Spans),
        statistics=load("statistics", Statistics),
        anomalies=load("anomalies", Anomalies),
        model=load("model", Model),
        evaluation=load("evaluation", Evaluation),
        version=version,
        pushed=load("pushed_model", PushedModel),
        executions=tuple(metadata.executions(run_id)),
        artifacts=artifacts,
        versions=tuple(_versions_until(version, metadata, workspace)),
    )


def _versions_until(
    version: ModelVersion, metadata: MetadataStore, workspace: Workspace
) -> Iterator[VersionEvidence]:
    for each in readable_versions(metadata, workspace, version.name):
        if each.version <= version.version:
            yield VersionEvidence(
                version=each.version,
                created_at=each.created_at,
                epsilon=each.privacy.epsilon,
                auc=each.metrics.auc,
                brier=each.metrics.brier,
            )


def summarize(outcome: Outcome, population: Population, *, owners_log: Path) -> RunSummary:
    """Returns the run's summary, with what only its simulation knows."""
    version, model_path = outcome.version, outcome.workspace.root / outcome.pushed.path
    signature = version.certificate.signature
    return RunSummary(
        run_id=outcome.run_id,
        status="COMPLETE",
        name=outcome.config.name,
        model_version=f"{version.name}:{version.version}",
        privacy=version.privacy,
        metrics=version.metrics,
        better_than_chance=version.better_than_chance,
        num_clients=len(outcome.spans.clients),
        rounds=outcome.config.training.num_rounds,
        warnings=(*_warnings(outcome, owners_log), *population.notes),
        simulation_only=judge_once(
            population.clients[0].source.parent,
            _judged(outcome),
            outcome.config,
            population.clients,
            transform=version.transform,
            model_path=model_path,
        ),
        paths=_paths(outcome, model_path),
        timings_seconds={
            record.step: round(record.duration_seconds or 0.0, 3)
            for record in outcome.executions
            if record.state == "COMPLETE"
        },
        signed_by=signature.public_key if signature else None,
        budgets=_budgets(outcome),
        reused={each.step: each.run_id for each in outcome.artifacts if each.run_id != outcome.run_id},
        resumed=any(record.state not in USABLE for record in outcome.executions),
    )


def gather_evidence(outcome: Outcome, repetition: Repetition) -> RunEvidence:
    """Returns what the run's report shows beside the summary."""
    config, evaluation = outcome.config, outcome.evaluation
    return RunEvidence(
        description=config.description,
        created_at=outcome.version.created_at,
        schema=config.data_schema,
        certificate=outcome.version.certificate,
        counts=_counts(outcome),
        curves=Curves(
            roc=evaluation.roc,
            reliability=evaluation.reliability,
            noise_stddev=evaluation.noise_stddev,
        ),
        executions=outcome.executions,
        artifacts=outcome.artifacts,
        releases=_releases(outcome),
        slices=evaluation.slices,
        rounds=tuple(RoundEvidence(**figures.model_dump()) for figures in outcome.model.rounds),
        budgets=_budgets(outcome),
        versions=outcome.versions,
        repetition=repetition,
        settings=config.model_dump(mode="json", by_alias=True, exclude={"data_schema"}),
    )


def _budgets(outcome: Outcome) -> tuple[Budget, ...]:
    ledger, certificate = outcome.workspace.ledger_path, outcome.version.certificate
    claim = read_claim(outcome.workspace.runs_dir / outcome.run_id)
    claimed = claim.steps if claim else ()
    return tuple(read_budgets(ledger, certificate, outcome.config.name, claimed=claimed))


def _judged(outcome: Outcome) -> str:
    """Returns a digest of the model and of the records that it is judged on."""
    version = outcome.version.model_dump(mode="json")
    return digest_json([version, outcome.spans.model_dump(mode="json"), outcome.config.eval_fraction])


def _releases(outcome: Outcome) -> dict[str, int]:
    with Ledger(outcome.workspace.ledger_path) as ledger:
        return {step: cost.num_releases for step, cost in ledger.costs(outcome.run_id).items()}


def _counts(outcome: Outcome) -> DataCounts:
    statistics = outcome.statistics
    return DataCounts(
        label_counts=statistics.label_counts,
        column_health=statistics.column_health,
        label_noise_stddev=statistics.label_noise_stddev,
        column_noise_stddev=statistics.column_noise_stddev,
        findings=tuple(
            Finding(column=anomaly.column, problem=anomaly.problem, severity=anomaly.severity)
            for anomaly in outcome.anomalies.found
        ),
        refusals=outcome.spans.refusals,
        spans=statistics.spans,
    )


def _paths(outcome: Outcome, model_path: Path) -> Paths:
    directory = outcome.workspace.runs_dir / outcome.run_id
    return Paths(
        report=str(directory / REPORT),
        model=str(model_path),
        certificate=str(directory / "register" / "certificate.json"),
        workspace=str(outcome.workspace.root),
    )


def _warnings(outcome: Outcome, owners_log: Path) -> Iterator[str]:
    privacy, refusals = outcome.version.privacy, outcome.spans.refusals
    if privacy.status != "private":
        yield "NOT PRIVATE: trained without noise; keep everything of this run to yourself."
    elif privacy.randomness.startswith("seeded"):
        yield "Seeded randomness: the noise can be repeated and protects nobody."
    if not outcome.version.better_than_chance:
        yield "By its private estimate, the model is not distinguishable from chance."
    if outcome.model.noise_advice:
        yield outcome.model.noise_advice
    yield from (
        f"Column {anomaly.column}: {anomaly.problem}."
        for anomaly in outcome.anomalies.found
        if anomaly.severity != "notice"
    )
    yield from (f"{client} does not take part: {reason}" for client, reason in refusals.items())
    if refusals and owners_log.exists():
        yield f"What the simulated clients logged: {owners_log}"
