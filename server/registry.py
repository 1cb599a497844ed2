"""Registered model versions, as the metadata store and the workspace hold them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.pipeline import MetadataStore, Workspace
from server.artifacts import ModelVersion


def next_version(metadata: MetadataStore, workspace: Workspace, name: str) -> int:
    """Returns a number above all that were registered or pushed under `name`, lost ones included."""
    readable = list(readable_versions(metadata, workspace))
    num_recorded = len(metadata.artifacts_of_type("ModelVersion"))
    # No name has had more versions than all names together.
    lost = num_recorded if len(readable) < num_recorded else 0
    folder = workspace.models_dir / name
    pushed = [int(path.name) for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    return max([lost, *(version.version for version in readable if version.name == name), *pushed]) + 1


def readable_versions(metadata: MetadataStore, workspace: Workspace) -> Iterator[ModelVersion]:
    """Yields the registered versions, oldest first, without those whose files are gone or damaged."""
    for record in metadata.artifacts_of_type("ModelVersion"):
        with suppress(WorkspaceError):
            yield _read_version(workspace.root / record.uri)


def model_versions(metadata: MetadataStore, workspace: Workspace) -> list[ModelVersion]:
    """Returns every registered version, oldest first.

    Raises:
      WorkspaceError: if a recorded version's file is gone or damaged.
    """
    return [
        _read_version(workspace.root / record.uri) for record in metadata.artifacts_of_type("ModelVersion")
    ]


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
