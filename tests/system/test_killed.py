"""A run whose process is killed at the end of every step and inside training, beside an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedpipe.ledger import Ledger
from fedpipe.pipeline import MetadataReader

pytestmark = pytest.mark.slow

SETTINGS = (
    "--config=breast_cancer",
    "--set=federation.num_clients=2",
    "--set=training.num_rounds=12",
    "--set=privacy.randomness=seeded",
)
BOUNDARIES = (
    "ingest",
    "statistics",
    "validate",
    "preprocess",
    "checkpoint",
    "train",
    "analyze",
    "register",
    "deploy",
)


@dataclass(frozen=True, kw_only=True)
class Fates:
    """Two workspaces after the same run."""

    undisturbed: Path
    killed: Path
    expected: dict[str, Any]
    found: dict[str, Any]
    deaths: int
    held: list[list[float]]


def held(workspace: Path) -> list[float]:
    path = workspace / "ledger.sqlite"
    if not path.exists():
        return []
    with Ledger(path) as ledger:
        return [spending.held for spending in ledger.spending()]


def reached(workspace: Path, boundary: str) -> bool:
    """Whether the step `boundary` left its artifact, or training its first checkpoint or its result."""
    if boundary == "checkpoint":
        return any(workspace.glob("runs/*/train/*.np[yz]"))
    return any(workspace.glob(f"runs/*/{boundary}/*.json"))


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Fates:
    folder = tmp_path_factory.mktemp("killed")
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    expected = shell.run(*SETTINGS, f"--workspace={undisturbed}", "--json", "--quiet").json
    spent = []
    for boundary in BOUNDARIES:
        process = shell.launch(*SETTINGS, f"--workspace={killed}", "--quiet")
        shell.wait_for(lambda boundary=boundary: reached(killed, boundary), process)
        process.send_signal(signal.SIGKILL)
        assert shell.finish(process).code == -signal.SIGKILL
        spent.append(held(killed))
    found = shell.run(*SETTINGS, f"--workspace={killed}", "--json", "--quiet").json
    return Fates(
        undisturbed=undisturbed,
        killed=killed,
        expected=expected,
        found=found,
        deaths=len(BOUNDARIES),
        held=[*spent, held(killed)],
    )


def test_all_deaths_belong_to_one_run_that_ends_well(fates: Fates) -> None:
    runs = MetadataReader.open_existing(fates.killed / "metadata.sqlite").runs()
    assert [(run.run_id, run.status) for run in runs] == [(fates.found["run_id"], "COMPLETE")]


def test_the_model_is_that_of_the_run_that_nobody_disturbed(fates: Fates) -> None:
    def weights(workspace: Path, summary: dict[str, Any]) -> bytes:
        return (workspace / "runs" / summary["run_id"] / "train" / "weights.npy").read_bytes()

    assert weights(fates.killed, fates.found) == weights(fates.undisturbed, fates.expected)
    for part in ("metrics", "privacy", "model_version", "simulation_only"):
        assert fates.found[part] == fates.expected[part]


def test_the_ledger_never_undercounts_and_in_the_end_agrees(fates: Fates) -> None:
    """From the claim on, every death leaves all that the run may cost counted as spent."""
    ends = held(fates.undisturbed)
    assert fates.held[-1] == pytest.approx(ends)
    for after_death in fates.held[1:]:
        assert all(now >= end - 1e-12 for now, end in zip(after_death, ends, strict=True))
    releases = []
    for workspace, summary in ((fates.killed, fates.found), (fates.undisturbed, fates.expected)):
        with Ledger(workspace / "ledger.sqlite") as ledger:
            releases.append(
                {step: cost.num_releases for step, cost in ledger.costs(summary["run_id"]).items()}
            )
    assert releases[0] == releases[1] == {"statistics": 2, "preprocess": 2, "train": 24, "analyze": 2}


def test_no_execution_is_left_running(fates: Fates) -> None:
    executions = MetadataReader.open_existing(fates.killed / "metadata.sqlite").executions(
        fates.found["run_id"]
    )
    assert {execution.state for execution in executions} <= {"COMPLETE", "FAILED"}
    assert [e.step for e in executions if e.state == "COMPLETE" and e.step != "ingest"] == [
        *("statistics", "validate", "preprocess", "train", "analyze", "register", "deploy")
    ]


def test_one_version_was_pushed_and_nothing_else_is_left(fates: Fates) -> None:
    assert os.listdir(fates.killed / "models" / "breast_cancer") == ["1"]
    certificate = json.loads(Path(fates.found["paths"]["certificate"]).read_text())
    assert certificate["run_id"] == fates.found["run_id"]
