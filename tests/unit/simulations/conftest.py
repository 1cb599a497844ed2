"""Small data, and a whole run without TensorFlow."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedpipe.config import Config, parse_config
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import kernel
from fedpipe.privacy import PrivacyPlan
from fedpipe.reports.summary import SimulationOnly
from server import coordinator
from server.steps import deploy
from simulations import outcome

COLUMNS: dict[str, Any] = {
    "age": {"type": "numeric", "minimum": 0, "maximum": 100},
    "town": {"type": "categorical", "vocabulary": ["ulm", "trier"]},
}


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """Returns a small configuration; arguments replace whole groups of settings."""

    def make(**changes: Any) -> Config:
        values: dict[str, Any] = {
            "name": "small",
            "schema": {
                "label": {"name": "ill", "classes": {"no": ["n"], "yes": ["y"]}},
                "key": "record_id",
                "client_column": "clinic",
                "columns": COLUMNS,
            },
            "federation": {"num_clients": 4},
            "model": {"name": "small"},
            "training": {"num_rounds": 3, "local_steps": 2},
            "privacy": {"randomness": "seeded"},
        }
        return parse_config(values | changes, source="test")

    return make


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[..., Path]:
    """Writes `count` records into a CSV file, a fifth of them without a label."""

    def write(count: int = 60, name: str = "records.csv", start: int = 0) -> Path:
        lines = ["record_id,age,town,ill,clinic"]
        for n in range(start, start + count):
            ill = ("y", "n", "y", "n", "?")[n % 5]
            lines.append(f"r{n},{n % 90},{'ulm' if n % 2 else 'trier'},{ill},Clinic {n % 3}")
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


class _FakeKernel:
    def noisy_sums(self, task: kernel.LocalTask) -> np.ndarray[Any, Any]:
        total = np.full(task.weights.shape, sum(len(batch) for batch in task.batches), np.float32)
        return np.asarray(total + task.noise.sum(axis=0) + task.weights, dtype=np.float32)


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch, make_terms: Callable[..., RunTerms]) -> None:
    """Replaces what needs TensorFlow or seconds: kernel, architecture, export, referee and calibration."""

    def export(directory: Path, *, weights: np.ndarray[Any, Any], **_: Any) -> None:
        (directory / "saved_model.pb").write_bytes(weights.tobytes())

    def judge(*args: Any, **kwargs: Any) -> SimulationOnly:
        return SimulationOnly(exact_metrics={}, baseline={}, num_examples={})

    def terms(config: Config) -> RunTerms:
        return make_terms(
            data_schema=config.data_schema,
            preprocess=config.preprocess,
            model=config.model,
            training=config.training,
        )

    architectures = SimpleNamespace(
        initial_weights=lambda definition, seed: np.zeros(2, np.float32),
        predict=lambda definition, weights, features: np.full(len(features), 0.5),
    )
    monkeypatch.setitem(sys.modules, "fedpipe.learning.architectures", architectures)
    monkeypatch.setitem(sys.modules, "fedpipe.learning.serving", SimpleNamespace(export_model=export))
    monkeypatch.setattr(kernel, "make_kernel", lambda name, definition: _FakeKernel())
    monkeypatch.setattr(deploy, "_check_canary", lambda directory, columns: None)
    monkeypatch.setattr(outcome, "judge_once", judge)
    monkeypatch.setattr(coordinator, "make_terms", terms)
    monkeypatch.setattr(PrivacyPlan, "epsilon_of", lambda plan, split: 5.0)
