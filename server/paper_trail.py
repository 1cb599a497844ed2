"""Reads what runs left behind: for `fedpipe run` and `fedpipe model`. Creates and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError, nearest
from fedpipe.pipeline import MetadataStore, Workspace
from server.artifacts import ModelVersion
from server.registry import model_versions


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Returns every run, oldest first."""
    _, metadata = _open(root)
    return [
        {
            "run_id": run.run_id,
            "problem": run.pipeline,
            "status": run.status,
            "started": run.created_at[:19],
            "epsilon": run.epsilon,
            "delta": run.delta,
        }
        for run in metadata.runs()
    ]


def show_run(root: Path, run_id: str) -> dict[str, Any]:
    """Returns a run with its steps and artifacts; `last` means the newest."""
    _, metadata = _open(root)
    if run_id == "last":
        runs = metadata.runs()
        if not runs:
            raise ConfigError(f"Expected a run in {root}, found none: start one with 'fedpipe simulate'.")
        run_id = runs[-1].run_id
    run = metadata.run(run_id)
    return {
        "run_id": run.run_id,
        "problem": run.pipeline,
        "status": run.status,
        "started": run.created_at,
        "epsilon": run.epsilon,
        "delta": run.delta,
        "message": run.message,
        "steps": _steps(metadata, run_id),
        "artifacts": [
            {"artifact": a.name, "type": a.type_name, "step": a.step, "sha256": a.digest[:12], "file": a.uri}
            for a in metadata.artifacts(run_id)
        ],
    }


def _steps(metadata: MetadataStore, run_id: str) -> list[dict[str, Any]]:
    return [
        {
            "step": execution.step,
            "state": execution.state,
            "seconds": None if execution.duration_seconds is None else round(execution.duration_seconds, 3),
            "message": execution.message,
        }
        for execution in metadata.executions(run_id)
    ]


def list_models(root: Path) -> list[dict[str, Any]]:
    """Returns every registered version, oldest first."""
    return [
        {
            "model": version.name,
            "version": version.version,
            "run_id": version.run_id,
            "status": version.privacy.status,
            "epsilon": version.privacy.epsilon,
            "delta": version.privacy.delta,
            "auc": version.metrics.auc.estimate,
            "created": version.created_at[:19],
        }
        for version in _versions(root)
    ]


def show_model(root: Path, reference: str) -> dict[str, Any]:
    """Returns a version without its bulky parts."""
    version = find_model(root, reference)
    return version.model_dump(mode="json", exclude={"transform", "certificate", "data_schema"})


def find_model(root: Path, reference: str) -> ModelVersion:
    """Returns the registered version that NAME or NAME:VERSION means.

    Raises:
      ConfigError: if there is none.
    """
    name, _, number = reference.partition(":")
    versions = _versions(root)
    named = [version for version in versions if version.name == name]
    if not named:
        names = {version.name for version in versions}
        hint = nearest(name, names) if names else "Train one with 'fedpipe simulate'."
        raise ConfigError(f"Expected a registered model, found no {name!r}. {hint}")
    if not number:
        return named[-1]
    chosen = [version for version in named if str(version.version) == number]
    if not chosen:
        numbers = ", ".join(str(version.version) for version in named)
        raise ConfigError(f"Expected a version of {name!r} among {numbers}, found {number!r}.")
    return chosen[-1]


def _versions(root: Path) -> list[ModelVersion]:
    workspace, metadata = _open(root)
    return model_versions(metadata, workspace)


def _open(root: Path) -> tuple[Workspace, MetadataStore]:
    workspace = Workspace.open_existing(root)
    return workspace, MetadataStore.open_existing(workspace.metadata_path)
