"""A run of a real federation from beginning to end: asked for, followed, reported."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.config import Config, parse_config
from fedpipe.errors import ConfigError, FederationError, WorkspaceError
from fedpipe.files import digest_json, write_text
from fedpipe.pipeline import MetadataStore, Progress, Workspace
from fedpipe.pipeline.records import ExecutionRecord
from fedpipe.reports.summary import RunSummary
from server.federation.home import FederationHome
from server.federation.members import read_members
from server.federation.spans import with_spans

REQUEST = "request.json"
SUMMARY = "summary.json"

FileIdentity = tuple[int, int]


class FederationRequest(BaseModel):
    """Everything that decides a run. `number` orders runs: clocks may jump."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    config: dict[str, Any]
    seed: int
    fresh: bool = False

    @property
    def identity(self) -> str:
        """Digest of what was asked for."""
        return digest_json([self.config, self.seed])


def run(
    home: FederationHome,
    config: Config,
    *,
    seed: int,
    fresh: bool,
    progress: Progress,
    now: dt.datetime,
) -> RunSummary:
    """Runs one full cycle over the members, or the rest of it if the last run of this kind was interrupted.

    The caller holds the workspace's lock.

    Raises:
      ConfigError: the settings are for simulations only.
      FederationError: the federation is down, or too few members answer.
    """
    _check_config(config)
    home.check_up()
    config = with_spans(config, now.date())
    workspace = home.workspace()
    last = last_run(workspace)
    asked = FederationRequest(
        number=last[1].number + 1 if last else 1,
        config=config.model_dump(mode="json", by_alias=True),
        seed=seed,
        fresh=fresh,
    )
    if last is not None and not fresh and _is_interrupted(workspace, last, asked):
        progress.note(f"Going on with run {last[0]}, which did not come to its end.")
        run_id, asked = last
    else:
        run_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        directory = workspace.make_step_dir(run_id, "ingest").parent
        write_text(directory / REQUEST, asked.model_dump_json(indent=2) + "\n")
    _run_app(home, workspace, run_id, asked, progress)
    return _report(workspace, run_id, config)


def resume(home: FederationHome, *, progress: Progress) -> RunSummary:
    """Goes on with the last run, or returns what it came to if it is complete.

    Raises:
      WorkspaceError: there is none.
    """
    workspace = home.workspace()
    last = last_run(workspace)
    if last is None:
        raise WorkspaceError("Expected an interrupted run, found none: start one with --config.")
    run_id, asked = last
    summary = read_summary(workspace, run_id)
    if summary is not None:
        progress.note(f"Run {run_id} is complete. This is what it came to; nothing was done now.")
        return summary
    home.check_up()
    progress.note(f"Going on with run {run_id}, which did not come to its end.")
    _run_app(home, workspace, run_id, asked, progress)
    return _report(workspace, run_id, stored_config(asked))


def _check_config(config: Config) -> None:
    if not config.privacy.enabled or config.privacy.randomness == "seeded":
        raise ConfigError(
            "Expected privacy.enabled=true and privacy.randomness=secure in a federation, found settings for "
            "simulations: no owner's node accepts them."
        )


def last_run(workspace: Workspace) -> tuple[str, FederationRequest] | None:
    """Returns the run that was begun last, and what it was asked for."""
    numbers: dict[Path, int] = {}
    for path in workspace.runs_dir.glob(f"*/{REQUEST}"):
        identity = file_identity(path)
        number = _number(path, identity) if identity else None
        if number is not None:
            numbers[path] = number
    if not numbers:
        return None
    newest = max(numbers, key=lambda path: numbers[path])
    return newest.parent.name, FederationRequest.model_validate_json(newest.read_bytes())


@lru_cache(maxsize=1 << 16)
def _number(path: Path, _identity: FileIdentity) -> int | None:
    """Returns the number of a run, read once; None if another version began it: nobody can go on with it."""
    try:
        return FederationRequest.model_validate_json(path.read_bytes()).number
    except ValidationError:
        return None


def file_identity(path: Path) -> FileIdentity | None:
    """Returns what tells the content of a file that is replaced, never changed; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_summary(workspace: Workspace, run_id: str) -> RunSummary | None:
    """Returns what a run came to; None if it is not complete."""
    try:
        return RunSummary.model_validate_json((workspace.runs_dir / run_id / SUMMARY).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _is_interrupted(
    workspace: Workspace, last: tuple[str, FederationRequest], asked: FederationRequest
) -> bool:
    run_id, stored = last
    if read_summary(workspace, run_id) is not None or stored.identity != asked.identity:
        return False
    if not workspace.metadata_path.exists():
        return True
    runs = {each.run_id: each for each in MetadataStore.open(workspace.metadata_path).runs()}
    found = runs.get(run_id)
    return found is None or found.status == "COMPLETE" or not found.claim_closed


def _run_app(
    home: FederationHome,
    workspace: Workspace,
    run_id: str,
    asked: FederationRequest,
    progress: Progress,
) -> None:
    from fedpipe.federation.flower_run import list_nodes, run_on_superlink
    from server.app import app, shown_by

    present = read_members(home).present()
    control = home.socket("control")
    nodes = list_nodes(control, {name: member.public_key for name, member in present.items()})
    if not nodes:
        raise FederationError("Expected members, found none: fedpipe federation invite NAME.")
    run_config: dict[str, str | int | float | bool] = {
        "config": json.dumps(asked.config),
        "workspace": str(workspace.root),
        "run-id": run_id,
        "seed": asked.seed,
        "reuse": not asked.fresh,
        "members": json.dumps({name: node.node_id for name, node in nodes.items()}),
        "signing-key": str(home.signing_key_path),
        "ledger-keys": json.dumps({name: present[name].ledger_key for name in nodes}),
    }
    with shown_by(progress):
        run_on_superlink(app, control=control, serverappio=home.socket("serverappio"), run_config=run_config)


def _report(workspace: Workspace, run_id: str, config: Config) -> RunSummary:
    from fedpipe.reports.run_report import render_report
    from server.outcome import REPORT, gather_evidence, read_outcome, summarize

    outcome = read_outcome(workspace, run_id, config)
    summary = summarize(outcome)
    answers = {
        "train": sum(figures.num_answered for figures in outcome.model.rounds),
    }
    evidence = gather_evidence(
        outcome,
        releases={
            step: answers.get(step, len(outcome.spans.clients)) for step in _charged(outcome.executions)
        },
    )
    directory = workspace.runs_dir / run_id
    write_text(directory / REPORT, render_report(summary, evidence))
    write_text(directory / SUMMARY, summary.model_dump_json(indent=2) + "\n")  # last of all
    return summary


def _charged(executions: tuple[ExecutionRecord, ...]) -> list[str]:
    from server.claims import CHARGED

    done = {each.step for each in executions if each.state == "COMPLETE"}
    return [step for step in CHARGED if step in done]


def stored_config(asked: FederationRequest) -> Config:
    """Returns the checked configuration of a stored request."""
    try:
        return parse_config(asked.config, source="the stored run")
    except ConfigError as error:
        raise WorkspaceError(f"{error} Start a new run with --fresh.") from error
