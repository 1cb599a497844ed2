"""Exact figures, which only a simulation has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.config import Config
from fedpipe.data import Transform
from fedpipe.data.table import Table
from simulations import referee
from simulations.population import make_population
from simulations.referee import judge

MakeConfig = Callable[..., Config]
TRANSFORM = Transform.model_validate(
    {
        "features": [
            {
                "type": "numeric",
                "column": "age",
                "lower": 0.0,
                "upper": 90.0,
                "center": 45.0,
                "scale": 20.0,
            }
        ],
        "missing_tokens": [""],
    }
)


@pytest.fixture
def by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deployed model: the older, the more ill."""

    def served(model_path: Path, transform: Transform, table: Table) -> np.ndarray[Any, Any]:
        return table.to_frame()["age"].astype(float).to_numpy() / 100

    monkeypatch.setattr(referee, "_served", served)


def records(tmp_path: Path, ill: Callable[[int], str]) -> Path:
    path = tmp_path / "records.csv"
    rows = [f"r{n},{n % 90},ulm,{ill(n % 90)},x" for n in range(400)]
    path.write_text("\n".join(["record_id,age,town,ill,clinic", *rows]) + "\n")
    return path


@pytest.mark.usefixtures("by_age")
def test_all_records_count_and_held_out_ones_are_judged(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    path = records(tmp_path, lambda age: "y" if age >= 45 else "n")
    clients = make_population(config, [path], directory=tmp_path / "p", seed=0).clients
    found = judge(config, clients, transform=TRANSFORM, model_path=tmp_path)
    assert found.num_examples["total"] == 400
    assert found.num_examples["train"] + found.num_examples["eval"] == 400
    assert 60 < found.num_examples["eval"] < 140
    assert found.exact_metrics["auc"] == 1.0
    assert found.baseline["auc"] == pytest.approx(1.0)


@pytest.mark.usefixtures("by_age")
def test_unlabelled_records_are_counted_and_not_judged(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    path = records(tmp_path, lambda age: "?" if age < 30 else "y" if age >= 60 else "n")
    clients = make_population(config, [path], directory=tmp_path / "p", seed=0).clients
    found = judge(config, clients, transform=TRANSFORM, model_path=tmp_path)
    assert found.num_examples["total"] == 400
    assert found.num_examples["train"] + found.num_examples["eval"] < 300


@pytest.mark.usefixtures("by_age")
def test_one_class_has_no_baseline(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    clients = make_population(
        config, [records(tmp_path, lambda age: "y")], directory=tmp_path / "p", seed=0
    ).clients
    assert judge(config, clients, transform=TRANSFORM, model_path=tmp_path).baseline == {}
