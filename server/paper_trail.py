"""Reads what runs left behind: for `fedpipe run` and `fedpipe model`. Creates and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError, nearest
from fedpipe.ledger import Ledger, StepCost
from fedpipe.pipeline import ExecutionRecord, MetadataReader, Workspace
from fedpipe.privacy.accounting import epsilon
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
    workspace, metadata = _open(root)
    if run_id == "last":
        runs = metadata.runs()
        if not runs:
            raise ConfigError(f"Expected a run in {root}, found none: start one with 'fedpipe simulate'.")
        run_id = runs[-1].run_id
    run = metadata.run(run_id)
    steps = describe_steps(workspace, metadata, run_id)
    return {
        "run_id": run.run_id,
        "problem": run.pipeline,
        "status": run.status,
        "started": run.created_at,
        "epsilon": run.epsilon,
        "delta": run.delta,
        "releases": sum(step["releases"] for step in steps),
        "message": run.message,
        "steps": steps,
        "artifacts": [
            {"artifact": a.name, "type": a.type_name, "step": a.step, "sha256": a.digest[:12], "file": a.uri}
            for a in metadata.artifacts(run_id)
        ],
    }


def describe_steps(workspace: Workspace, metadata: MetadataReader, run_id: str) -> list[dict[str, Any]]:
    """Returns one row for each step of a run: ran, cached or resumed, how long, what it spent, and why.

    `epsilon_alone` is what the step's releases would cost a record by themselves, at the run's
    delta: steps do not simply add up. It is None where nothing was charged.
    """
    run = metadata.run(run_id)
    tries: dict[str, list[ExecutionRecord]] = {}
    for execution in metadata.executions(run_id):
        tries.setdefault(execution.step, []).append(execution)
    costs = _costs(workspace, run_id)
    return [_row(step, found, costs.get(step), run.delta) for step, found in tries.items()]


def _row(
    step: str, tries: Sequence[ExecutionRecord], cost: StepCost | None, delta: float | None
) -> dict[str, Any]:
    last = tries[-1]
    timed = [each.duration_seconds for each in tries if each.duration_seconds is not None]
    return {
        "step": step,
        "how": _how(tries),
        "seconds": round(sum(timed), 3) if timed else None,
        "releases": cost.num_releases if cost else 0,
        "epsilon_alone": epsilon(cost.events, delta) if cost and cost.events and delta else None,
        "because": last.message if last.state in ("FAILED", "CANCELED") else tries[0].because,
    }


def _how(tries: Sequence[ExecutionRecord]) -> str:
    last = tries[-1].state
    if last != "COMPLETE":
        return last.lower()
    return "resumed" if any(each.state != "COMPLETE" for each in tries) else "ran"


def _costs(workspace: Workspace, run_id: str) -> Mapping[str, StepCost]:
    # The ledger of a federation's nodes is theirs; a simulated population's is in the workspace.
    if not workspace.ledger_path.exists():
        return {}
    with Ledger(workspace.ledger_path) as ledger:
        return ledger.costs(run_id)


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


def _open(root: Path) -> tuple[Workspace, MetadataReader]:
    workspace = Workspace.open_existing(root)
    return workspace, MetadataReader.open_existing(workspace.metadata_path)
