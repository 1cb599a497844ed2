"""Registered model versions, as the metadata store and the workspace hold them."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.pipeline import MetadataStore, Workspace
from server.artifacts import ModelVersion

_logger = logging.getLogger(__name__)


def next_version(metadata: MetadataStore, workspace: Workspace, name: str) -> int:
    """Returns a number above all that were registered or pushed under `name`, lost ones included."""
    records = metadata.artifacts_of_type("ModelVersion")
    registered, lost = [], 0
    for record in records:
        try:
            version = _read_version(workspace.root / record.uri)
        except WorkspaceError:
            lost = len(records)  # no name has had more versions than all names together
            continue
        if version.name == name:
            registered.append(version.version)
    folder = workspace.models_dir / name
    pushed = [int(path.name) for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    return max([lost, *registered, *pushed]) + 1


def model_versions(metadata: MetadataStore, workspace: Workspace) -> list[ModelVersion]:
    """Returns every registered version whose file can be read, oldest first; the log tells of the others.

    Raises:
      WorkspaceError: no file can be read, of those that are recorded.
    """
    paths = [workspace.root / record.uri for record in metadata.artifacts_of_type("ModelVersion")]
    tried = [_try_version(path) for path in paths]
    found = [each for each in tried if isinstance(each, ModelVersion)]
    lost = [each for each in tried if isinstance(each, WorkspaceError)]
    if lost and not found:
        raise lost[0]
    for each in lost:
        _logger.warning("%s", each)
    return found


def _try_version(path: Path) -> ModelVersion | WorkspaceError:
    try:
        return _read_version(path)
    except WorkspaceError as error:
        return error


def readable_versions(metadata: MetadataStore, workspace: Workspace, name: str) -> list[ModelVersion]:
    """Returns the versions of `name` whose files are still there, each once, in order."""
    found: dict[int, ModelVersion] = {}
    for record in metadata.artifacts_of_type("ModelVersion"):
        with suppress(WorkspaceError):  # of a run that somebody deleted
            version = _read_version(workspace.root / record.uri)
            if version.name == name:
                found[version.version] = version
    return [found[number] for number in sorted(found)]


def _read_version(path: Path) -> ModelVersion:
    try:
        return ModelVersion.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise WorkspaceError(
            f"Expected a registered model version at {path}, found no file: restore it from a backup."
        ) from error
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected a registered model version at {path}, found it damaged or of another fedpipe: "
            "restore it from a backup, or use the fedpipe that wrote it."
        ) from error
