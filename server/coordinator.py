"""The coordinator: runs the whole cycle over some clients, and sees to the run's beginning and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from fedpipe.config import Config
from fedpipe.errors import BudgetError, DataError, WorkspaceError
from fedpipe.federation import Clients, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.files import digest_json, write_text
from fedpipe.pipeline import MetadataStore, Progress, RunRecord, Workspace, run_pipeline
from server.claims import CLAIM, ClaimingClients, first_charged, read_claim
from server.cycle import Surroundings, make_pipeline
from server.history import TERMS
from server.planning import make_terms
from server.remedies import ways_out
from server.steps.asking import Asker


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run, where, and under which name. `seed` fixes initial weights, never noise or sampling.

    With `reuse`, results of earlier runs stand for steps on which nothing changed. `signing_key` signs the
    certificate; by default, the workspace's own. `ledger_keys` are the public keys of clients' ledgers, by
    name, as far as they are known beforehand.
    """

    config: Config
    workspace: Workspace
    run_id: str
    seed: int
    reuse: bool = True
    signing_key: Path | None = None
    ledger_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the run keeps its files."""
        return self.workspace.step_dir(self.run_id, "ingest").parent


def run_cycle(
    request: RunRequest, clients: Clients, *, progress: Progress, clock: Callable[[], datetime]
) -> None:
    """Runs every step over `clients`, or those that an earlier process left undone.

    The caller holds the workspace's lock. Whatever happens, the paper trail says so.

    Raises:
      BudgetError: too few clients can afford the run; the message names what would fit.
      DataError: the data is not fit for training; the run has ended, and its claim with it.
    """
    terms = _frozen_terms(request)
    metadata = MetadataStore.open(request.workspace.metadata_path)
    metadata.fail_abandoned()
    if request.run_id not in [run.run_id for run in metadata.runs()]:
        _record(request, metadata, clock())
    closing = _Closing(workspace=request.workspace, metadata=metadata, clients=clients, terms=terms)
    for earlier in _given_up(request, metadata):
        closing.close(earlier)
    if terms.plan.private and metadata.run(request.run_id).epsilon is None:
        metadata.update_run(request.run_id, epsilon=terms.plan.total_epsilon(), delta=terms.plan.delta)
    try:
        _run(request, terms, metadata, clients, progress, clock)
    except BudgetError as error:
        closing.close(metadata.run(request.run_id), own=True)
        claim = read_claim(request.directory)
        ways = ways_out(request.config, error.shortfalls, claim.steps if claim else None)
        raise BudgetError(f"{error}\n{ways}", error.shortfalls) from error
    except DataError:
        # Nobody can go on with this run: the same data would stop it again.
        closing.close(metadata.run(request.run_id), own=True)
        raise
    closing.close(metadata.run(request.run_id), own=True)


def _run(
    request: RunRequest,
    terms: RunTerms,
    metadata: MetadataStore,
    clients: Clients,
    progress: Progress,
    clock: Callable[[], datetime],
) -> None:
    claiming = ClaimingClients(
        clients,
        run_id=request.run_id,
        terms=terms,
        directory=request.directory,
        first=first_charged(metadata.executions(request.run_id)),
        ledger_keys=request.ledger_keys,
    )
    around = Surroundings(
        config=request.config,
        asker=Asker(clients=claiming, run_id=request.run_id, terms=terms, on_note=progress.note),
        workspace=request.workspace,
        metadata=metadata,
        progress=progress,
        clock=clock,
        seed=request.seed,
        signing_key=request.signing_key,
    )
    run_pipeline(
        make_pipeline(around),
        workspace=request.workspace,
        metadata=metadata,
        run_id=request.run_id,
        progress=progress,
        clock=clock,
        reuse=request.reuse,
    )


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
            "fedpipe: start a new run with --fresh."
        ) from error


def _record(request: RunRequest, metadata: MetadataStore, now: datetime) -> None:
    metadata.create_run(
        request.run_id,
        pipeline=request.config.name,
        config_digest=digest_json(request.config.model_dump(mode="json")),
        created_at=now,
        claim_id=request.run_id,
    )


def _given_up(request: RunRequest, metadata: MetadataStore) -> list[RunRecord]:
    """Returns the earlier runs of this problem: nobody goes on with any but the last."""
    return [
        run for run in metadata.runs() if run.pipeline == request.config.name and run.run_id != request.run_id
    ]


@dataclass(frozen=True, kw_only=True)
class _Closing:
    """Ends claims: what they never released is free again.

    A client that does not answer keeps its claim, which counts as spent until it is closed.
    """

    workspace: Workspace
    metadata: MetadataStore
    clients: Clients
    terms: RunTerms

    def close(self, run: RunRecord, *, own: bool = False) -> None:
        """Closes the claim of `run`, if it made one; `own` says that these clients were asked for it."""
        if run.claim_closed:
            return
        if not self._claimed(run):
            if own:  # it never will make one
                self.metadata.update_run(run.run_id, claim_closed=True)
            return
        timeout = self.terms.training.round_timeout_seconds
        request = Request(run_id=run.run_id, step="finish")
        replies, refusals = self.clients.ask(request, timeout_seconds=timeout)
        # None of them knows the claim when the owners are other people, as with other data.
        if not refusals and (own or any(reply.values.get("closed") for reply in replies)):
            self.metadata.update_run(run.run_id, claim_closed=True)

    def _claimed(self, run: RunRecord) -> bool:
        # Somebody may have deleted the run's files: its reservations stand all the same.
        file = self.workspace.runs_dir / run.run_id / CLAIM
        return file.exists() or first_charged(self.metadata.executions(run.run_id)) is not None
