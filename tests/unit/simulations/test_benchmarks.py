"""The arithmetic of the benchmark's tables; its speeds are no test's business."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedpipe.config import parse_config
from simulations.benchmarks import cohort
from simulations.benchmarks.contestants import define, make_contestants
from simulations.benchmarks.problems import BATCH, CLIENT_RECORDS, CLIENTS, STEPS, TITLES, clients, records
from simulations.benchmarks.scale import settings, write_records
from simulations.benchmarks.tables import BASELINES, describe_machine, save, to_markdown
from simulations.benchmarks.turns import summarize, take_turns

ROW, DRAWN = BASELINES


def test_ratio_is_the_median_over_turns_and_not_the_ratio_of_medians() -> None:
    times = {ROW: [1.0, 10.0, 2.0], DRAWN: [2.0, 10.0, 4.0], "mine": [3.0, 20.0, 2.0]}
    mine = summarize({ROW: 0.0, DRAWN: 0.0, "mine": 7.0}, times)["mine"]
    assert mine == {
        "median_seconds": 3.0,
        "first_seconds": 7.0,
        f"times {ROW}": 2.0,
        f"times {DRAWN}": 1.5,
        "times mine": 1.0,
    }


def test_tables_say_what_machine_they_are_of(tmp_path: Path) -> None:
    machine = describe_machine()
    summary = summarize({ROW: 0.5, DRAWN: 0.5}, {ROW: [0.01], DRAWN: [0.02]})
    text = to_markdown(machine, {"steps": {"mlp": summary}})
    assert machine["processor"] in text
    assert f"| {DRAWN} | 20.0 | 0.50 | 2.00 | 1.00 |" in text
    save(tmp_path / "new", machine, {"steps": {"mlp": summary}})
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


def test_every_way_through_a_cohort_makes_the_same_sums() -> None:
    first, *others = [make()() for make in cohort.make_contestants().values()]
    assert first.shape[0] == cohort.COHORT
    assert (np.abs(first).max(axis=1) > 0.1).all()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-4)


def test_a_peer_that_does_not_start_is_left_out() -> None:
    def missing() -> Callable[[], object]:
        raise RuntimeError("no such package")

    summary = take_turns({"here": lambda: lambda: 2.0, "gone": missing}, turns=3)
    assert summary == {"here": {"median_seconds": 2.0, "first_seconds": 2.0, "times here": 1.0}}


def test_tables_of_rounds_scale_and_start() -> None:
    summary = summarize({"fedpipe, DP-SGD": 1.0, "peer": 1.0}, {"fedpipe, DP-SGD": [0.5], "peer": [1.0]})
    scale = [{"clients": 10_000, "parameters": 161, "seconds": 4.0, "peak_bytes": 2e9}]
    start = [{"what": "TensorFlow", "seconds": 1.5, "peak_bytes": 5e8}]
    text = to_markdown(describe_machine(), {"round": summary, "scale": scale, "start": start})
    assert "| peer | 1000.0 | 1.00 | 2.00 |" in text
    assert "| 10,000 | 161 | 4.0 | 2000 |" in text
    assert "| TensorFlow | 1.5 | 500 |" in text


def test_the_scaled_population_fits_its_configuration(tmp_path: Path) -> None:
    config = parse_config(settings(16), source="settings")
    write_records(tmp_path / "records.parquet", 3)
    frame = pd.read_parquet(tmp_path / "records.parquet")
    assert set(config.data_schema.columns) <= set(frame.columns)
    assert frame.groupby("client").size().tolist() == [100, 100, 100]


def test_clients_of_the_round_are_the_same_each_time() -> None:
    first, again = clients(), clients()
    assert len(first) == CLIENTS
    assert first[7][0].shape == (CLIENT_RECORDS, 700)
    np.testing.assert_array_equal(first[7][0], again[7][0])
