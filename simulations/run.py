"""A simulated run from beginning to end: population, engine, referee, summary, report."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from fedpipe.config import Config, parse_config
from fedpipe.data import Transform
from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.files import digest_json, write_text
from fedpipe.pipeline import MetadataStore, Progress, Workspace
from fedpipe.reports.summary import Paths, RunSummary
from simulations.population import SimulatedClient, check_sources, make_population

LIFETIME_RUNS = 3
REQUEST = "request.json"
SUMMARY = "summary.json"
REPORT = "report.html"


class SimulationRequest(BaseModel):
    """Everything that decides a simulated run. Kept with it, so that it can be resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    data: tuple[str, ...]
    seed: int

    @classmethod
    def make(cls, config: Config, data: Sequence[Path], seed: int) -> SimulationRequest:
        """Returns the request for these settings."""
        return cls(
            config=config.model_dump(mode="json", by_alias=True),
            data=tuple(str(path.absolute()) for path in data),
            seed=seed,
        )

    def parsed(self) -> Config:
        """Returns the checked configuration."""
        return parse_config(self.config, source="the stored run")


def simulate(
    workspace: Workspace, request: SimulationRequest, *, progress: Progress, now: datetime
) -> RunSummary:
    """Runs the whole cycle on a new population; the caller holds the workspace's lock."""
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    files = check_sources(request.parsed(), [Path(path) for path in request.data])
    directory = workspace.make_step_dir(run_id, "ingest").parent
    write_text(directory / REQUEST, request.model_dump_json(indent=2) + "\n")
    return _run(workspace, run_id, request, files, progress, resume=False)


def resume(workspace: Workspace, wanted: SimulationRequest | None, *, progress: Progress) -> RunSummary:
    """Goes on with the workspace's last run, or returns its summary if it is complete.

    Raises:
      WorkspaceError: there is no run to go on with.
      ConfigError: `wanted` is given and is not what the run was started with.
    """
    runs = MetadataStore.open(workspace.metadata_path).runs()
    if not runs:
        raise WorkspaceError(
            f"Expected an interrupted run in {workspace.root}, found none: start one without --resume."
        )
    run_id = runs[-1].run_id
    directory = workspace.runs_dir / run_id
    try:
        request = SimulationRequest.model_validate_json((directory / REQUEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkspaceError(f"Expected {REQUEST} of run {run_id}, found none: start a new run.") from error
    if wanted is not None and digest_json(wanted.model_dump()) != digest_json(request.model_dump()):
        raise ConfigError(
            f"Expected the settings that run {run_id} was started with, found others: "
            "give --resume alone, or start a new run without it."
        )
    if runs[-1].status == "COMPLETE" and (directory / SUMMARY).exists():
        return RunSummary.model_validate_json((directory / SUMMARY).read_text(encoding="utf-8"))
    files = check_sources(request.parsed(), [Path(path) for path in request.data])
    return _run(workspace, run_id, request, files, progress, resume=True)


def _run(
    workspace: Workspace,
    run_id: str,
    request: SimulationRequest,
    files: Sequence[Path],
    progress: Progress,
    *,
    resume: bool,
) -> RunSummary:
    config = request.parsed()
    clients = make_population(
        config, files, directory=workspace.population_dir / config.name / f"seed-{request.seed}", seed=request.seed
    )
    _run_apps(workspace, run_id, request, clients, progress, resume=resume)
    summary = _summarize(workspace, run_id, config, clients)
    directory = workspace.runs_dir / run_id
    from fedpipe.reports.run_report import render_report

    write_text(directory / REPORT, render_report(summary, config))
    write_text(directory / SUMMARY, summary.model_dump_json(indent=2) + "\n")
    return summary


def _run_apps(
    workspace: Workspace,
    run_id: str,
    request: SimulationRequest,
    clients: Sequence[SimulatedClient],
    progress: Progress,
    *,
    resume: bool,
) -> None:
    from fedpipe.federation.in_process import run_in_process

    from clients.app import app as client_app  # isort: skip
    from server.app import app as server_app, shown_by  # isort: skip

    config = request.parsed()
    node_configs = [
        {
            "client": client.name,
            "source": str(client.source),
            "key": str(client.key_path),
            "ledger": str(workspace.ledger_path),
            "policy": json.dumps(_node_policy(config, request.seed)),
        }
        for client in clients
    ]
    run_config: dict[str, str | int | float | bool] = {
        "config": json.dumps(request.config),
        "workspace": str(workspace.root),
        "run-id": run_id,
        "seed": request.seed,
        "resume": resume,
    }
    with shown_by(progress):
        run_in_process(server_app, client_app, node_configs=node_configs, run_config=run_config)


def _node_policy(config: Config, seed: int) -> dict[str, Any]:
    """Returns what simulated owners allow; seeded noise and runs without privacy exist in simulation only."""
    privacy = config.privacy
    return {
        "lifetime_epsilon": privacy.lifetime_epsilon,
        "lifetime_delta": privacy.delta,
        "lifetime_runs": LIFETIME_RUNS,
        "allow_not_private": not privacy.enabled,
        "seed": seed if privacy.randomness == "seeded" else None,
    }


def _summarize(
    workspace: Workspace, run_id: str, config: Config, clients: Sequence[SimulatedClient]
) -> RunSummary:
    from server.artifacts import Anomalies, ModelVersion, PushedModel, Spans
    from simulations.referee import judge

    metadata = MetadataStore.open(workspace.metadata_path)
    read = {record.name: record for record in metadata.artifacts(run_id)}

    def load(name: str, kind: type[BaseModel]) -> Any:
        return kind.model_validate_json((workspace.root / read[name].uri).read_text(encoding="utf-8"))

    version = cast(ModelVersion, load("model_version", ModelVersion))
    spans, anomalies = cast(Spans, load("spans", Spans)), cast(Anomalies, load("anomalies", Anomalies))
    pushed = cast(PushedModel, load("pushed_model", PushedModel))
    model_path = workspace.root / pushed.path
    transform: Transform = version.transform
    directory = workspace.runs_dir / run_id
    return RunSummary(
        run_id=run_id,
        status="COMPLETE",
        name=config.name,
        model_version=f"{version.name}:{version.version}",
        privacy=version.privacy,
        metrics=version.metrics,
        better_than_chance=version.better_than_chance,
        num_clients=len(spans.clients),
        rounds=config.training.num_rounds,
        warnings=tuple(_warnings(version, spans, anomalies)),
        simulation_only=judge(config, clients, transform=transform, model_path=model_path),
        paths=Paths(
            report=str(directory / REPORT),
            model=str(model_path),
            certificate=str(directory / "register" / "certificate.json"),
            workspace=str(workspace.root),
        ),
        timings_seconds={
            record.step: round(record.duration_seconds or 0.0, 3)
            for record in metadata.executions(run_id)
            if record.state == "COMPLETE"
        },
    )


def _warnings(version: Any, spans: Any, anomalies: Any) -> list[str]:
    found = []
    if version.privacy.status != "private":
        found.append("NOT PRIVATE: trained without noise; keep everything of this run to yourself.")
    elif version.privacy.randomness.startswith("seeded"):
        found.append("Seeded randomness: the noise can be repeated and protects nobody.")
    if not version.better_than_chance:
        found.append("By its private estimate, the model is not distinguishable from chance.")
    found.extend(f"Column {anomaly.column}: {anomaly.problem}." for anomaly in anomalies.found)
    found.extend(f"{client} does not take part: {reason}" for client, reason in spans.refusals.items())
    return found
