"""Deploy: a version is there whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FedpipeError
from server.artifacts import Model, ModelVersion, PushedModel
from server.steps import deploy as module
from server.steps.deploy import deploy


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for TensorFlow: writes a small tree, and remembers where."""
    places: list[Path] = []

    def export(directory: Path, **_: Any) -> None:
        places.append(directory)
        (directory / "variables").mkdir()
        (directory / "saved_model.pb").write_bytes(b"model")

    monkeypatch.setitem(sys.modules, "fedpipe.learning.serving", SimpleNamespace(export_model=export))
    monkeypatch.setattr(module, "_check_canary", lambda directory, columns: None)
    return places


@pytest.fixture
def push(tmp_path: Path, make_version: Callable[..., ModelVersion]) -> Callable[[], PushedModel]:
    def run() -> PushedModel:
        weights = tmp_path / "weights"
        weights.mkdir(exist_ok=True)
        np.save(weights / "weights.npy", np.zeros(2, np.float32))
        version = make_version()
        model = Model(
            definition=version.definition,
            weights_file="weights.npy",
            num_rounds=1,
            dropouts=(),
            private=True,
        )
        made = deploy(
            model, version, directory=tmp_path, models_dir=tmp_path / "models", weights_directory=weights
        )
        return made["pushed_model"]

    return run


def test_a_version_lies_where_tensorflow_serving_looks(
    push: Callable[[], PushedModel], exported: list[Path], tmp_path: Path
) -> None:
    pushed = push()
    assert (pushed.path, pushed.status) == ("models/illness/2", "private")
    assert (tmp_path / pushed.path / "saved_model.pb").read_bytes() == b"model"
    assert [path.name for path in (tmp_path / "models" / "illness").iterdir()] == ["2"]
    assert (tmp_path / "models" / "illness").stat().st_mode & 0o777 == 0o700


def test_what_is_left_of_a_version_is_replaced_by_a_whole_one(
    push: Callable[[], PushedModel], exported: list[Path], tmp_path: Path
) -> None:
    """The process may die between the push and its record; people delete files."""
    first = push()
    (tmp_path / first.path / "saved_model.pb").unlink()
    assert push() == first
    assert (tmp_path / first.path / "saved_model.pb").read_bytes() == b"model"
    assert [path.name for path in (tmp_path / "models" / "illness").iterdir()] == ["2"]


def test_a_failing_canary_leaves_nothing(
    push: Callable[[], PushedModel],
    exported: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(directory: Path, columns: tuple[str, ...]) -> None:
        raise FedpipeError("Expected an answer, found none.")

    monkeypatch.setattr(module, "_check_canary", fail)
    with pytest.raises(FedpipeError):
        push()
    assert list((tmp_path / "models" / "illness").iterdir()) == []


def test_what_a_killed_push_left_behind_is_removed(
    push: Callable[[], PushedModel], exported: list[Path], tmp_path: Path
) -> None:
    abandoned = tmp_path / "models" / "illness" / ".staging-abc"
    abandoned.mkdir(parents=True)
    (abandoned / "saved_model.pb").write_bytes(b"half")
    push()
    assert [path.name for path in (tmp_path / "models" / "illness").iterdir()] == ["2"]
