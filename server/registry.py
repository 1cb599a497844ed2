"""Registered model versions, as the metadata store and the workspace hold them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.pipeline import MetadataStore, Workspace
from server.artifacts import ModelVersion


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
    """Returns every registered version, oldest first.

    Raises:
      WorkspaceError: if a recorded version's file is gone or damaged.
    """
    return [
        _read_version(workspace.root / record.uri) for record in metadata.artifacts_of_type("ModelVersion")
    ]


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
