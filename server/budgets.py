"""What budgets were spent on: registered versions, and the releases that each is made from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedpipe.config import Config
from fedpipe.errors import ConfigError
from fedpipe.ledger.history import BlockHistory
from fedpipe.ledger.history_reading import read_history
from fedpipe.pipeline import MetadataReader, Workspace
from fedpipe.reports.budget_facts import BudgetReport
from fedpipe.reports.budget_reading import read_report
from fedpipe.reports.budget_report import ModelOrigin
from server.artifacts import ModelVersion
from server.claims import CHARGED
from server.registry import model_versions


def model_origins(root: Path) -> list[ModelOrigin]:
    """Returns the registered versions of a workspace, oldest first; none if nothing was ever run there."""
    workspace = Workspace.open_existing(root)
    if not workspace.metadata_path.exists():
        return []
    metadata = MetadataReader.open_existing(workspace.metadata_path)
    return [_origin(metadata, version) for version in model_versions(metadata, workspace)]


def _origin(metadata: MetadataReader, version: ModelVersion) -> ModelOrigin:
    """Returns where a version's releases came from: a step taken from an earlier run was released there."""
    sources = {
        (artifact.run_id, artifact.step)
        for execution in metadata.executions(version.run_id)
        if execution.step in CHARGED and execution.state in ("COMPLETE", "CACHED")
        for artifact in metadata.outputs_of(execution.id)
    }
    return ModelOrigin(
        name=f"{version.name}:{version.version}",
        run_id=version.run_id,
        epsilon=version.privacy.epsilon,
        delta=version.privacy.delta,
        sources=frozenset(sources),
    )


def gather_report(
    workspace: Path | None,
    ledgers: Sequence[str | Path],
    *,
    client: str | None = None,
    spans: Sequence[str] = (),
    now: datetime | None = None,
) -> BudgetReport:
    """Returns what `ledgers` say together, or the workspace's own, with the models that the workspace knows.

    Args:
      workspace: None leaves models out.
      ledgers: files or URLs; by default, the workspace's ledger.
      client: only its records: its name in the ledger, or the end of it after a dot.
      spans: only records of these.
      now: by default, the present.

    Raises:
      ConfigError: neither workspace nor ledger, or no ledger knows the client.
      LedgerError, WorkspaceError: there is nothing to read, or it cannot be read.
    """
    places = list(ledgers)
    if not places and workspace is None:
        raise ConfigError("Expected --workspace or --ledger, found neither: say what to report on.")
    if not places and workspace is not None:
        places = [Workspace.open_existing(workspace).ledger_path]
    origins = model_origins(workspace) if workspace is not None else []
    return read_report(places, client=client, spans=spans, origins=origins, now=now)


def read_blocks(
    config: Config, workspace: Path | None, ledgers: Sequence[str | Path]
) -> tuple[BlockHistory, ...]:
    """Returns the blocks that a run of `config` would use, as far as ledgers know them; none without one.

    These are the spans that `config` names, or its newest; where owners of several problems share a
    ledger, those of its own.
    """
    places = list(ledgers)
    if not places and workspace is not None:
        places = [Workspace.open_existing(workspace).ledger_path]
    blocks = [each for place in places for each in read_history(place).blocks]
    own = [each for each in blocks if each.block.client.startswith(f"{config.name}.")] or blocks
    spans = sorted({each.block.span for each in own})
    wanted = config.spans.names or (spans[-config.spans.last :] if config.spans.last else spans)
    return tuple(each for each in own if each.block.span in wanted)
