"""Registered model versions, as the metadata store and the workspace hold them."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.pipeline import MetadataReader, Workspace
from server.artifacts import ModelVersion

_logger = logging.getLogger(__name__)


def next_version(metadata: MetadataReader, workspace: Workspace, name: str) -> int:
    """Returns a number above all that were registered or pushed under `name`, lost ones included."""
    found, lost = _recorded(metadata, workspace)
    registered = [version.version for version in found if version.name == name]
    folder = workspace.models_dir / name
    pushed = [int(path.name) for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    # No name has had more versions than all names together.
    return max([len(found) + len(lost) if lost else 0, *registered, *pushed]) + 1


def model_versions(metadata: MetadataReader, workspace: Workspace) -> list[ModelVersion]:
    """Returns every registered version whose file can be read, oldest first; the log tells of the others.

    Raises:
      WorkspaceError: no file can be read, of those that are recorded.
    """
    found, lost = _recorded(metadata, workspace)
    if lost and not found:
        raise lost[0]
    for each in lost:
        _logger.warning("%s", each)
    return found


def readable_versions(metadata: MetadataReader, workspace: Workspace, name: str) -> list[ModelVersion]:
    """Returns the versions of `name` whose files are still there, each once, in order."""
    found, _ = _recorded(metadata, workspace)
    numbered = {version.version: version for version in found if version.name == name}
    return [numbered[number] for number in sorted(numbered)]


def _recorded(
    metadata: MetadataReader, workspace: Workspace
) -> tuple[list[ModelVersion], list[WorkspaceError]]:
    """Returns the versions whose files can be read, oldest first, and what is wrong with the others."""
    paths = [workspace.root / record.uri for record in metadata.artifacts_of_type("ModelVersion")]
    tried = [_try_version(path) for path in paths]
    found = [each for each in tried if isinstance(each, ModelVersion)]
    return found, [each for each in tried if isinstance(each, WorkspaceError)]


def _try_version(path: Path) -> ModelVersion | WorkspaceError:
    try:
        return _read_version(path)
    except WorkspaceError as error:
        return error


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
