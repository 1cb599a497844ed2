"""Runs for tests and for comparison: both are possible, and both are marked wherever they appear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedpipe.ledger import Ledger

pytestmark = pytest.mark.slow

SETTINGS = "--set federation.num_clients=2 --set training.num_rounds=4"
SEVERAL = """
import sys
from fedpipe.simulate import main
for words in map(str.split, sys.argv[1:]):
    sys.argv = ["simulate", *words]
    try:
        main()
    except SystemExit as done:
        if done.code:
            raise
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> dict[str, dict[str, Any]]:
    """Four runs in one process, which imports TensorFlow once."""
    folder = tmp_path_factory.mktemp("runs")
    seeded = "--set privacy.randomness=seeded"
    wanted = {
        "seeded": f"--workspace {folder}/seeded {seeded}",
        "again": f"--workspace {folder}/again {seeded}",
        "other": f"--workspace {folder}/other {seeded} --seed 7",
        "bare": f"--workspace {folder}/bare --set privacy.enabled=false",
        "after": f"--workspace {folder}/bare",
    }
    lines = [f"{words} --config breast_cancer --json --quiet {SETTINGS}" for words in wanted.values()]
    done = shell.python("-c", SEVERAL, *lines)
    assert done.code == 0, done.err
    return dict(zip(wanted, map(json.loads, done.out.splitlines()), strict=True))


def train_file(summary: dict[str, Any], name: str) -> bytes:
    return (Path(summary["paths"]["workspace"]) / "runs" / summary["run_id"] / "train" / name).read_bytes()


def test_seeded_runs_repeat_to_the_bit(runs: dict[str, dict[str, Any]]) -> None:
    one, again = runs["seeded"], runs["again"]
    assert train_file(one, "weights.npy") == train_file(again, "weights.npy")
    assert one["metrics"] == again["metrics"]
    assert one["privacy"] == again["privacy"]


def test_another_seed_is_another_model(runs: dict[str, dict[str, Any]]) -> None:
    assert train_file(runs["seeded"], "weights.npy") != train_file(runs["other"], "weights.npy")


def test_seeded_runs_are_marked(runs: dict[str, dict[str, Any]]) -> None:
    summary = runs["seeded"]
    assert summary["privacy"]["randomness"].startswith("seeded")
    assert any("protects nobody" in warning for warning in summary["warnings"])
    certificate = json.loads(Path(summary["paths"]["certificate"]).read_text())
    assert certificate["privacy"]["randomness"].startswith("seeded")


def test_a_run_without_privacy_is_marked_everywhere(runs: dict[str, dict[str, Any]], shell: Any) -> None:
    summary = runs["bare"]
    root = Path(summary["paths"]["workspace"])
    assert summary["privacy"]["status"] == "NOT PRIVATE"
    assert (summary["privacy"]["epsilon"], summary["privacy"]["delta"]) == (None, None)
    assert summary["warnings"][0].startswith("NOT PRIVATE")
    certificate = json.loads(Path(summary["paths"]["certificate"]).read_text())
    assert certificate["privacy"]["status"] == "NOT PRIVATE"
    assert certificate["blocks"] == []
    pushed = json.loads((root / "runs" / summary["run_id"] / "deploy" / "pushed_model.json").read_text())
    assert pushed["status"] == "NOT PRIVATE"
    assert "NOT PRIVATE" in Path(summary["paths"]["report"]).read_text()
    listed = shell.run("model", "list", "--workspace", str(root), module="fedpipe")
    assert [line.split()[3:5] for line in listed.out.splitlines()[1:]] == [
        ["NOT", "PRIVATE"],
        ["private", listed.out.splitlines()[2].split()[4]],
    ]


def test_a_run_without_privacy_charges_nothing_and_leaves_budgets_whole(
    runs: dict[str, dict[str, Any]],
) -> None:
    """The private run after it created the blocks, and paid for itself alone."""
    bare, after = runs["bare"], runs["after"]
    with Ledger(Path(bare["paths"]["workspace"]) / "ledger.sqlite") as ledger:
        spending = ledger.spending()
        assert ledger.num_releases(after["run_id"]) == 2 * (4 + 3)
    assert len(spending) == 2 * 2
    assert all(0 < block.held <= block.budget / 2 for block in spending)
    assert after["privacy"]["status"] == "private"
    assert after["model_version"] == "breast_cancer:2"
