"""What a workspace remembers of its simulated runs, and whether it remembers all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.files import write_text
from fedpipe.ledger import Ledger
from fedpipe.pipeline import MetadataStore, Workspace
from fedpipe.reports.summary import RunSummary
from server.claims import read_claim
from simulations.request import SimulationRequest

REQUEST = "request.json"
SUMMARY = "summary.json"
SET_ASIDE = "request.damaged.json"
# What a step's fingerprint says of the plan: one that asks nobody, or without privacy, has none of it.
QUERIES = "settings.queries."


class StoredRequest(BaseModel):
    """A request, and its place among those of the workspace: clocks may jump, numbers do not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    request: SimulationRequest
    fresh: bool = False

    def asked_by(self, request: SimulationRequest) -> StoredRequest:
        """Returns the same with the engine of `request`, which is alike in all else."""
        return self.model_copy(update={"request": request})


def store_request(directory: Path, stored: StoredRequest) -> None:
    """Keeps `stored` with its run: from here on --resume means this run, whatever happens next."""
    write_text(directory / REQUEST, stored.model_dump_json(indent=2) + "\n")


def read_request(directory: Path) -> StoredRequest:
    """Returns what the run in `directory` was asked for.

    Raises:
      WorkspaceError: the file is damaged, or another fedpipe's.
    """
    path = directory / REQUEST
    try:
        return StoredRequest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected {path} as fedpipe wrote it, found it damaged or of another version: start a new run, "
            "without --resume."
        ) from error


def last_run(workspace: Workspace) -> Path | None:
    """Returns the directory of the run that was begun last, or None.

    Raises:
      WorkspaceError: a run cannot be read, so that it might be the last.
    """
    last = max(_begun(workspace), key=lambda each: each[1].number, default=None)
    return last[0] if last else None


def runs_of(workspace: Workspace, request: SimulationRequest) -> list[str]:
    """Returns the runs on this very request, whatever came of them, oldest first."""
    begun = sorted(_begun(workspace), key=lambda each: each[1].number)
    identity = request.identity()
    return [directory.name for directory, stored in begun if stored.request.identity() == identity]


def _begun(workspace: Workspace) -> Iterator[tuple[Path, StoredRequest]]:
    for path in workspace.runs_dir.glob(f"*/{REQUEST}"):
        yield path.parent, read_request(path.parent)


def set_unreadable_aside(workspace: Workspace) -> list[str]:
    """Renames requests that cannot be read, and returns the names of their runs: nobody can go on with them.

    What such a run made stays, and so does what it spent.
    """
    found = [
        path for path in sorted(workspace.runs_dir.glob(f"*/{REQUEST}")) if not _is_readable(path.parent)
    ]
    for path in found:
        os.replace(path, path.with_name(SET_ASIDE))
    return [path.parent.name for path in found]


def _is_readable(directory: Path) -> bool:
    try:
        read_request(directory)
    except WorkspaceError:
        return False
    return True


def store_summary(directory: Path, summary: RunSummary) -> None:
    """Keeps the summary, which says that the run is complete."""
    write_text(directory / SUMMARY, summary.model_dump_json(indent=2) + "\n")


def read_summary(workspace: Workspace, directory: Path) -> RunSummary | None:
    """Returns the summary of a complete run, with paths as they are now: a workspace may be moved.

    None if there is none that can be read: going on with the run makes it anew, at no cost.
    """
    try:
        summary = RunSummary.model_validate_json((directory / SUMMARY).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    before, now = Path(summary.paths.workspace), workspace.root
    moved = {
        name: str(now / Path(path).relative_to(before)) if Path(path).is_relative_to(before) else path
        for name, path in summary.paths.model_dump().items()
    }
    return summary.model_copy(update={"paths": summary.paths.model_copy(update=moved)})


def check_memory(workspace: Workspace) -> None:
    """Checks that the ledger knows of every release that the paper trail tells of.

    Raises:
      WorkspaceError: the ledger is gone, or one of before: it would forget what was spent.
    """
    if not workspace.metadata_path.exists():
        return
    metadata = MetadataStore.open(workspace.metadata_path)
    released = _released_steps(metadata)
    if not workspace.ledger_path.exists():
        if not released and not _is_any_claim_answered(workspace, metadata):
            return
        raise WorkspaceError(
            f"Expected the ledger of earlier runs at {workspace.ledger_path}, found none: restore it. A new "
            "one would forget what was spent. To simulate other owners, choose another --workspace."
        )
    with Ledger(workspace.ledger_path) as ledger:
        forgotten = [
            (run_id, step)
            for run_id, steps in released.items()
            for step in sorted(steps - ledger.costs(run_id).keys())
        ]
    if forgotten:
        run_id, step = forgotten[0]
        raise WorkspaceError(
            f"Expected the releases of step {step} of run {run_id} in {workspace.ledger_path}, found none: "
            "it is older than the runs, or lost its last changes (ledger.sqlite-wal). Restore it. To "
            "simulate other owners, choose another --workspace."
        )


def check_paper_trail(workspace: Workspace) -> None:
    """Checks that what was paid for can be found again.

    Raises:
      WorkspaceError: blocks have spent, and no run is recorded: all would be paid for again, unasked.
    """
    if workspace.metadata_path.exists() or not workspace.ledger_path.exists():
        return
    with Ledger(workspace.ledger_path) as ledger:
        spent = any(spending.num_releases for spending in ledger.spending())
    if spent:
        raise WorkspaceError(
            f"Expected the record of earlier runs at {workspace.metadata_path}, found none, so their results "
            "cannot be used again: restore it, or pay for everything anew with --fresh."
        )


def _is_any_claim_answered(workspace: Workspace, metadata: MetadataStore) -> bool:
    claims = (read_claim(workspace.runs_dir / run.run_id) for run in metadata.runs())
    return any(claim is not None and claim.answered for claim in claims)


def _released_steps(metadata: MetadataStore) -> dict[str, set[str]]:
    """Returns, by run, the steps that it completed itself and that had something to charge."""
    found = {
        run.run_id: {
            each.step
            for each in metadata.executions(run.run_id)
            if each.state == "COMPLETE" and any(name.startswith(QUERIES) for name in each.parts)
        }
        for run in metadata.runs()
    }
    return {run_id: steps for run_id, steps in found.items() if steps}
