"""A simulated run from beginning to end: population, engine, referee, summary, report."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fedpipe.config import Config
from fedpipe.data.readers import Source
from fedpipe.errors import BudgetError, ConfigError, WorkspaceError
from fedpipe.federation.engines import Engine, find_engine
from fedpipe.files import write_text
from fedpipe.learning.builders import find_builder
from fedpipe.learning.threads import ONE_THREAD, environment
from fedpipe.pipeline import MetadataStore, Progress, Workspace
from fedpipe.reports.summary import RunSummary
from simulations.owners_log import owners_log
from simulations.past_runs import (
    SUMMARY,
    StoredRequest,
    check_memory,
    check_paper_trail,
    last_run,
    read_request,
    read_summary,
    set_unreadable_aside,
    store_request,
    store_summary,
)
from simulations.population import Population, SimulatedClient, check_sources, make_population
from simulations.repetition import repetition
from simulations.request import SimulationRequest

OWNERS_LOG = "clients.log"
POOLING = "pooling.json"


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
    for name in set_unreadable_aside(workspace):
        progress.note(f"The request of run {name} is damaged or another fedpipe's: nobody can go on with it.")
    last = last_run(workspace)
    if last is not None and not fresh and _is_interrupted(workspace, last, request):
        progress.note(f"Going on with run {last.name}, which did not come to its end.")
        return _run(workspace, last.name, read_request(last).asked_by(request), files, progress)
    if not fresh:
        check_paper_trail(workspace)
    if config.model.builder:
        find_builder(config.model.builder)  # before anything is charged
    _engine(config)
    run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    directory = workspace.make_step_dir(run_id, "ingest").parent
    number = read_request(last).number + 1 if last is not None else 1
    stored = StoredRequest(number=number, request=request, fresh=fresh)
    store_request(directory, stored)
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
    directory = last_run(workspace)
    if directory is None:
        raise WorkspaceError(
            f"Expected an interrupted run in {workspace.root}, found none: start one without --resume."
        )
    stored = read_request(directory)
    if wanted is not None and wanted.identity() != stored.request.identity():
        raise ConfigError(
            f"Expected the settings that run {directory.name} was started with, found others: "
            "give --resume alone, or start a new run without it."
        )
    summary = read_summary(workspace, directory)
    if summary is not None:
        progress.note(f"Run {directory.name} is complete. This is what it came to; nothing was done now.")
        return summary
    progress.note(f"Going on with run {directory.name}, which did not come to its end.")
    request = wanted or stored.request
    request = request.on_engine(engine) if engine else request
    files = check_sources(request.parsed(), request.data)
    return _run(workspace, directory.name, stored.asked_by(request), files, progress)


def _is_interrupted(workspace: Workspace, directory: Path, request: SimulationRequest) -> bool:
    """Whether a run on this very request was begun, has not come to its end, and can still do so."""
    if (directory / SUMMARY).exists() or read_request(directory).request.identity() != request.identity():
        return False
    if not workspace.metadata_path.exists():
        return True
    runs = {run.run_id: run for run in MetadataStore.open(workspace.metadata_path).runs()}
    run = runs.get(directory.name)
    return run is None or run.status == "COMPLETE" or not run.claim_closed


def _run(
    workspace: Workspace, run_id: str, stored: StoredRequest, files: Sequence[Source], progress: Progress
) -> RunSummary:
    config = stored.request.parsed()
    check_memory(workspace)
    population = workspace.population_dir / config.name / f"seed-{stored.request.seed}"
    made = make_population(
        config,
        files,
        directory=population,
        seed=stored.request.seed,
        pooling=workspace.population_dir / config.name / POOLING,
    )
    made = replace(made, notes=(*stored.request.notes, *made.notes))
    log = workspace.population_dir / OWNERS_LOG
    with owners_log(log):
        try:
            _run_apps(workspace, run_id, stored, made.clients, progress)
        except BudgetError as error:
            remedy = "In a simulation, another --workspace has owners who have spent nothing."
            raise BudgetError(f"{error}\n{remedy}", error.shortfalls) from error
    return _report(workspace, run_id, stored.request, made, log)


def _report(
    workspace: Workspace, run_id: str, request: SimulationRequest, population: Population, log: Path
) -> RunSummary:
    from clients.records import forget_records
    from fedpipe.reports.run_report import render_report
    from server.outcome import REPORT, read_outcome
    from simulations.outcome import gather_evidence, summarize

    forget_records()  # of ten thousand clients, beside all that their ledger tells, they would fill 4 GB
    outcome = read_outcome(workspace, run_id, request.parsed())
    summary = summarize(outcome, population, owners_log=log)
    again = repetition(request.config, request.data, request.seed)
    evidence = gather_evidence(outcome, again)
    directory = workspace.runs_dir / run_id
    write_text(directory / REPORT, render_report(summary, evidence))
    store_summary(directory, summary)  # last of all
    return summary


def _run_apps(
    workspace: Workspace,
    run_id: str,
    stored: StoredRequest,
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
