"""The coordinator: runs the whole cycle over some clients, and sees to the run's beginning and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from fedpipe.config import Config
from fedpipe.errors import WorkspaceError
from fedpipe.federation import Clients, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.files import digest_json, write_text
from fedpipe.pipeline import MetadataStore, Progress, Workspace, run_pipeline
from server.cycle import Surroundings, make_pipeline
from server.planning import make_terms
from server.steps.asking import Asker

TERMS = "terms.json"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run, where, and under which name. `seed` fixes initial weights, never noise or sampling."""

    config: Config
    workspace: Workspace
    run_id: str
    seed: int


def run_cycle(
    request: RunRequest, clients: Clients, *, progress: Progress, clock: Callable[[], datetime]
) -> None:
    """Runs every step over `clients`, or those that an earlier process left undone.

    The caller holds the workspace's lock. Whatever happens, the paper trail says so.
    """
    terms = _frozen_terms(request)
    metadata = MetadataStore.open(request.workspace.metadata_path)
    metadata.fail_abandoned()
    recorded = [run.run_id for run in metadata.runs()]
    if request.run_id not in recorded:
        _finish(recorded[-1:], clients, terms)
        _record(request, metadata, clock())
    if terms.plan.private and metadata.run(request.run_id).epsilon is None:
        metadata.update_run(request.run_id, epsilon=terms.plan.total_epsilon(), delta=terms.plan.delta)
    around = Surroundings(
        config=request.config,
        asker=Asker(clients=clients, run_id=request.run_id, terms=terms),
        workspace=request.workspace,
        metadata=metadata,
        progress=progress,
        clock=clock,
        seed=request.seed,
    )
    run_pipeline(
        make_pipeline(around),
        workspace=request.workspace,
        metadata=metadata,
        run_id=request.run_id,
        progress=progress,
        clock=clock,
    )
    _finish([request.run_id], clients, terms)


def _frozen_terms(request: RunRequest) -> RunTerms:
    """Returns the run's terms: made once, then read, so that a resumed run keeps its claim."""
    path = request.workspace.make_step_dir(request.run_id, "ingest").parent / TERMS
    if not path.exists():
        terms = make_terms(request.config)
        write_text(path, terms.model_dump_json(by_alias=True, indent=2) + "\n")
        return terms
    try:
        return RunTerms.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected the terms of run {request.run_id} in {path}, found them damaged or of another "
            "fedpipe: start a new run."
        ) from error


def _record(request: RunRequest, metadata: MetadataStore, now: datetime) -> None:
    metadata.create_run(
        request.run_id,
        pipeline=request.config.name,
        config_digest=digest_json(request.config.model_dump(mode="json")),
        created_at=now,
        claim_id=request.run_id,
    )


def _finish(run_ids: list[str], clients: Clients, terms: RunTerms) -> None:
    """Closes the claims of runs that nobody can go on with: what they never released is free again.

    A client that does not answer keeps its claim, which counts as spent until it is closed.
    """
    for run_id in run_ids:
        request = Request(run_id=run_id, step="finish")
        clients.ask(request, timeout_seconds=terms.training.round_timeout_seconds)
