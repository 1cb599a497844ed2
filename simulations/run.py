"""A simulated run from beginning to end: population, engine, referee, summary, report."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.config import Config, parse_config
from fedpipe.data.databases import is_database
from fedpipe.data.readers import Source, find_files
from fedpipe.errors import BudgetError, ConfigError, WorkspaceError
from fedpipe.federation.engines import Engine, find_engine
from fedpipe.files import digest_json, write_text
from fedpipe.learning.builders import find_builder
from fedpipe.learning.threads import ONE_THREAD, environment
from fedpipe.pipeline import MetadataStore, Progress, Workspace
from fedpipe.reports.summary import RunSummary
from server.claims import read_claim
from simulations.owners_log import owners_log
from simulations.population import (
    Population,
    SimulatedClient,
    check_sources,
    make_population,
    without_absent_key,
)
from simulations.repetition import repetition
from simulations.windows import resolve_spans

REQUEST = "request.json"
SUMMARY = "summary.json"
OWNERS_LOG = "clients.log"
MECHANICAL = ("engine", "num_actors")  # settings of `federation` on which no result depends

Stored = TypeVar("Stored", bound=BaseModel)


class SimulationRequest(BaseModel):
    """Everything that decides a simulated run. Kept with it, so that it can be resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    data: tuple[str, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @classmethod
    def make(cls, config: Config, data: Sequence[Source], seed: int) -> SimulationRequest:
        """Returns the request for these settings, with a schema and spans that the data bears."""
        files = find_files(data)
        config, notes = resolve_spans(without_absent_key(config, files), files)
        return cls(
            config=config.model_dump(mode="json", by_alias=True),
            data=tuple(
                source if is_database(source) else str(Path(source).absolute()) for source in map(str, data)
            ),
            seed=seed,
            notes=notes,
        )

    def parsed(self) -> Config:
        """Returns the checked configuration."""
        return parse_config(self.config, source="the stored run")

    def identity(self) -> str:
        """Returns the digest of all that a result depends on: what runs the apps is no part of it."""
        settings = self.model_dump()
        for name in MECHANICAL:
            settings["config"]["federation"].pop(name, None)
        return digest_json(settings)

    def on_engine(self, engine: str) -> SimulationRequest:
        """Returns the same request, to be run by another engine."""
        federation = self.config["federation"] | {"engine": engine}
        return self.model_copy(update={"config": self.config | {"federation": federation}})


class _StoredRequest(BaseModel):
    """A request, and its place among those of the workspace: clocks may jump, numbers do not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    request: SimulationRequest
    fresh: bool = False

    def asked_by(self, request: SimulationRequest) -> _StoredRequest:
        """Returns the same with the engine of `request`, which is alike in all else."""
        return self.model_copy(update={"request": request})


def simulate(
    workspace: Workspace,
    request: SimulationRequest,
    *,
    progress: Progress,
    now: datetime,
    fresh: bool = False,
) -> RunSummary:
    """Runs the whole cycle, or the rest of it if the last run was interrupted on the same request.

    Steps on which nothing changed since any earlier run are answered from its results; with
    `fresh` the run is new and everything is asked, and paid for, again. The caller holds the
    workspace's lock.
    """
    config = request.parsed()
    files = check_sources(config, request.data)
    last = _last_run(workspace)
    if last is not None and not fresh and _is_interrupted(workspace, last, request):
        progress.note(f"Going on with run {last.name}, which did not come to its end.")
        return _run(workspace, last.name, _stored(last).asked_by(request), files, progress)
    if config.model.builder:
        find_builder(config.model.builder)  # before anything is charged
    _engine(config)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    directory = workspace.make_step_dir(run_id, "ingest").parent
    number = _stored(last).number + 1 if last is not None else 1
    stored = _StoredRequest(number=number, request=request, fresh=fresh)
    # From here on --resume means this run, whatever happens next.
    write_text(directory / REQUEST, stored.model_dump_json(indent=2) + "\n")
    return _run(workspace, run_id, stored, files, progress)


def resume(
    workspace: Workspace,
    wanted: SimulationRequest | None,
    *,
    progress: Progress,
    engine: str | None = None,
) -> RunSummary:
    """Goes on with the workspace's last run, or returns its summary if it is complete.

    It may go on with another engine: that of `wanted`, or `engine` by itself.

    Raises:
      WorkspaceError: there is no run to go on with, or what is stored of it is damaged.
      ConfigError: `wanted` is given and is not what the run was started with.
    """
    directory = _last_run(workspace)
    if directory is None:
        raise WorkspaceError(
            f"Expected an interrupted run in {workspace.root}, found none: start one without --resume."
        )
    stored = _stored(directory)
    if wanted is not None and wanted.identity() != stored.request.identity():
        raise ConfigError(
            f"Expected the settings that run {directory.name} was started with, found others: "
            "give --resume alone, or start a new run without it."
        )
    if (directory / SUMMARY).exists():
        progress.note(f"Run {directory.name} is complete. This is what it came to; nothing was done now.")
        return _read(directory / SUMMARY, RunSummary)
    progress.note(f"Going on with run {directory.name}, which did not come to its end.")
    request = wanted or stored.request
    request = request.on_engine(engine) if engine else request
    files = check_sources(request.parsed(), request.data)
    return _run(workspace, directory.name, stored.asked_by(request), files, progress)


def runs_of(workspace: Workspace, request: SimulationRequest) -> list[str]:
    """Returns the runs on this very request, whatever came of them, oldest first."""
    begun = sorted(_begun(workspace), key=lambda each: each[1].number)
    identity = request.identity()
    return [directory.name for directory, stored in begun if stored.request.identity() == identity]


def _begun(workspace: Workspace) -> Iterator[tuple[Path, _StoredRequest]]:
    for path in workspace.runs_dir.glob(f"*/{REQUEST}"):
        yield path.parent, _stored(path.parent)


def _last_run(workspace: Workspace) -> Path | None:
    last = max(_begun(workspace), key=lambda each: each[1].number, default=None)
    return last[0] if last else None


def _stored(directory: Path) -> _StoredRequest:
    return _read(directory / REQUEST, _StoredRequest)


def _is_interrupted(workspace: Workspace, directory: Path, request: SimulationRequest) -> bool:
    """Whether a run on this very request was begun, has not come to its end, and can still do so."""
    if (directory / SUMMARY).exists() or _stored(directory).request.identity() != request.identity():
        return False
    if not workspace.metadata_path.exists():
        return True
    runs = {run.run_id: run for run in MetadataStore.open(workspace.metadata_path).runs()}
    run = runs.get(directory.name)
    return run is None or run.status == "COMPLETE" or not run.claim_closed


def _read(path: Path, kind: type[Stored]) -> Stored:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected {path} as fedpipe wrote it, found it damaged or of another version: start a new run."
        ) from error


def _run(
    workspace: Workspace, run_id: str, stored: _StoredRequest, files: Sequence[Source], progress: Progress
) -> RunSummary:
    config = stored.request.parsed()
    _check_ledger(workspace)
    population = workspace.population_dir / config.name / f"seed-{stored.request.seed}"
    made = make_population(config, files, directory=population, seed=stored.request.seed)
    made = replace(made, notes=(*stored.request.notes, *made.notes))
    log = workspace.population_dir / OWNERS_LOG
    with owners_log(log):
        try:
            _run_apps(workspace, run_id, stored, made.clients, progress)
        except BudgetError as error:
            remedy = "In a simulation, another --workspace has owners who have spent nothing."
            raise BudgetError(f"{error} {remedy}", error.shortfalls) from error
    return _report(workspace, run_id, stored.request, made, log)


def _check_ledger(workspace: Workspace) -> None:
    """Raises WorkspaceError if runs have spent budgets here and the ledger that knows of them is gone."""
    if workspace.ledger_path.exists() or not workspace.metadata_path.exists():
        return
    runs = MetadataStore.open(workspace.metadata_path).runs()
    claims = (read_claim(workspace.runs_dir / run.run_id) for run in runs)
    if any(claim is not None and claim.answered for claim in claims):
        raise WorkspaceError(
            f"Expected the ledger of earlier runs at {workspace.ledger_path}, found none: restore it. A new "
            "one would forget what was spent. To simulate other owners, choose another --workspace."
        )


def _report(
    workspace: Workspace, run_id: str, request: SimulationRequest, population: Population, log: Path
) -> RunSummary:
    from fedpipe.reports.run_report import render_report
    from simulations.outcome import REPORT, gather_evidence, read_outcome, summarize

    outcome = read_outcome(workspace, run_id, request.parsed())
    summary = summarize(outcome, population, owners_log=log)
    again = repetition(request.config, request.data, request.seed)
    evidence = gather_evidence(outcome, again)
    directory = workspace.runs_dir / run_id
    write_text(directory / REPORT, render_report(summary, evidence))
    # Last of all: it says that the run is complete.
    write_text(directory / SUMMARY, summary.model_dump_json(indent=2) + "\n")
    return summary


def _run_apps(
    workspace: Workspace,
    run_id: str,
    stored: _StoredRequest,
    clients: Sequence[SimulatedClient],
    progress: Progress,
) -> None:
    from clients.app import app as client_app  # isort: skip
    from server.app import app as server_app, shown_by  # isort: skip

    request = stored.request
    config = request.parsed()
    run_engine = _engine(config)
    policy = json.dumps(_node_policy(config, request.seed))
    node_configs = [
        {
            "client": client.name,
            "account": f"{_problem(request)}.{client.name}",
            "source": str(client.source),
            "key": str(client.key_path),
            "ledger": str(workspace.ledger_path),
            "policy": policy,
        }
        for client in clients
    ]
    run_config: dict[str, str | int | float | bool] = {
        "config": json.dumps(request.config),
        "workspace": str(workspace.root),
        "run-id": run_id,
        "seed": request.seed,
        "reuse": not stored.fresh,
    }
    # Seeded runs repeat to the bit, whatever the engine and the number of processors.
    threads = ONE_THREAD if config.privacy.randomness == "seeded" else {}
    with environment(threads), shown_by(progress):
        run_engine(server_app, client_app, node_configs=node_configs, run_config=run_config)


def _engine(config: Config) -> Engine:
    return find_engine(config.federation.engine, num_actors=config.federation.num_actors)


def _problem(request: SimulationRequest) -> str:
    """Returns the problem whose owners and records have budgets of their own in the workspace.

    Neither seed nor files enter: another division or a new export gives no record a fresh budget.
    """
    name = str(request.config["name"])
    return name if request.data else f"{name}.built-in"


def _node_policy(config: Config, seed: int) -> dict[str, Any]:
    """Returns what simulated owners allow; seeded noise and runs without privacy exist in simulation only."""
    privacy = config.privacy
    return {
        "lifetime_epsilon": privacy.lifetime_epsilon,
        "lifetime_delta": privacy.delta,
        "lifetime_runs": privacy.lifetime_runs,
        "allow_not_private": not privacy.enabled,
        "seed": seed if privacy.randomness == "seeded" else None,
    }
