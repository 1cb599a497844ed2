"""The arithmetic of the benchmark's tables; its speeds are no test's business."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulations.benchmarks.contestants import define, make_contestants
from simulations.benchmarks.problems import BATCH, STEPS, TITLES, records
from simulations.benchmarks.tables import BASELINES, describe_machine, save, summarize, to_markdown

ROW, DRAWN = BASELINES


def test_ratio_is_the_median_over_turns_and_not_the_ratio_of_medians() -> None:
    times = {ROW: [1.0, 10.0, 2.0], DRAWN: [2.0, 10.0, 4.0], "mine": [3.0, 20.0, 2.0]}
    mine = summarize({ROW: 0.0, DRAWN: 0.0, "mine": 7.0}, times)["mine"]
    assert mine == {
        "median_seconds": 3.0,
        "first_seconds": 7.0,
        f"times {ROW}": 2.0,
        f"times {DRAWN}": 1.5,
    }


def test_tables_say_what_machine_they_are_of(tmp_path: Path) -> None:
    machine = describe_machine()
    summary = summarize({ROW: 0.5, DRAWN: 0.5}, {ROW: [0.01], DRAWN: [0.02]})
    text = to_markdown(machine, {"mlp": summary})
    assert machine["processor"] in text
    assert f"| {DRAWN} | 20.0 | 0.50 | 2.00 | 1.00 |" in text
    save(tmp_path / "new", machine, {"mlp": summary})
    assert json.loads((tmp_path / "new" / "results.json").read_text())["machine"]["cores"] == machine["cores"]
    assert (tmp_path / "new" / "results.md").read_text() == text


@pytest.mark.parametrize("problem", TITLES)
def test_problems_fit_their_models(problem: str) -> None:
    features, labels = records(problem)
    definition = define(problem)
    assert features.shape == (BATCH * STEPS, definition.num_features)
    assert labels.max() == definition.num_classes - 1
    np.testing.assert_array_equal(features, records(problem)[0])


@pytest.mark.parametrize("name", ["plain, batches in a row", "plain, batches drawn", "fedpipe book_keeping"])
def test_contestants_run(name: str) -> None:
    make_contestants("mlp")[name]()()
