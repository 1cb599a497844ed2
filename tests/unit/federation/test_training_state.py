"""Checkpoints: what is read is what was written, and anything else is one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedpipe.errors import WorkspaceError
from fedpipe.federation.strategies import fedadam, fedavg, fedavgm
from fedpipe.federation.training_state import (
    CHECKPOINT,
    VERSION,
    RoundRecord,
    TrainingState,
    load_state,
    save_state,
)

INITIAL = np.array([0.5, -1.0, 2.0], np.float32)
ADAM = fedadam(beta_1=0.9, beta_2=0.99, tau=1e-3)


def state() -> TrainingState:
    _, moments = ADAM.step(ADAM.start(3), np.array([1.0, -2.0, 0.1]), 1)
    record = RoundRecord(server_round=1, answered=("a",), missing={"b": "no answer in time"}, retried=("b",))
    return TrainingState(
        weights=INITIAL * 2,
        moments=moments,
        iterate_sum=np.array([1 / 3, 0.0, 2e-9]),
        num_averaged=1,
        server_round=1,
        history=(record,),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_state(tmp_path / CHECKPOINT, state(), "terms")
    return tmp_path / CHECKPOINT


def load(path: Path, identity: str = "terms") -> TrainingState | None:
    return load_state(path, identity, TrainingState.start(INITIAL, ADAM))


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    with np.load(path) as stored:
        content: dict[str, object] = dict(stored)
    head = json.loads(str(content["head"]))
    content["head"] = head
    change(content)
    content["head"] = np.array(json.dumps(content["head"]))
    with path.open("wb") as stream:
        np.savez(stream, **content)  # type: ignore[arg-type]


def test_what_was_saved_comes_back_bit_for_bit(path: Path) -> None:
    loaded, saved = load(path), state()
    assert loaded is not None
    for name in ("weights", "iterate_sum"):
        assert getattr(loaded, name).tobytes() == getattr(saved, name).tobytes()
    assert {name: moment.tobytes() for name, moment in loaded.moments.items()} == {
        name: moment.tobytes() for name, moment in saved.moments.items()
    }
    assert (loaded.num_averaged, loaded.server_round) == (1, 1)
    assert loaded.history == saved.history


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load(tmp_path / CHECKPOINT) is None


def test_a_checkpoint_of_another_run_is_not_used(path: Path) -> None:
    assert load(path, "other terms") is None


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped"])
def test_a_damaged_file_is_an_error_and_stays(path: Path, damage: str) -> None:
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "empty": b"",
        "cut": good[:middle],
        "text": b"no checkpoint",
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(WorkspaceError, match="found it damaged: restore it, or start a new run"):
        load(path)
    assert path.read_bytes() == bad


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("weights"),
        lambda content: content.pop("moment.second"),
        lambda content: content.update(weights=np.zeros(4, np.float32)),
        lambda content: content.update({"moment.first": np.zeros(2)}),
        lambda content: content.update({"moment.velocity": np.zeros(3)}),
        lambda content: content.update(weights=np.zeros(3)),
        lambda content: content["head"].pop("history"),
        lambda content: content["head"].update(server_round=2),
        lambda content: content.update(head=[1]),
    ],
    ids=["no weights", "no moment", "longer", "shorter", "strange", "float64", "no history", "count", "list"],
)
def test_a_file_without_all_of_the_state_is_damaged(
    path: Path, change: Callable[[dict[str, object]], None]
) -> None:
    rewrite(path, change)
    with pytest.raises(WorkspaceError, match="found it damaged"):
        load(path)


@pytest.mark.parametrize("strategy", [fedavg(), fedavgm(momentum=0.9)])
def test_moments_of_another_strategy_are_not_taken(path: Path, strategy: object) -> None:
    with pytest.raises(WorkspaceError):
        load_state(path, "terms", TrainingState.start(INITIAL, strategy))  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [None, 1, VERSION + 1])
def test_a_checkpoint_of_another_fedpipe_says_so(path: Path, version: int | None) -> None:
    def change(content: dict[str, object]) -> None:
        head = content["head"]
        assert isinstance(head, dict)
        del head["version"]
        if version is not None:
            head["version"] = version

    rewrite(path, change)
    with pytest.raises(WorkspaceError, match=rf"of version {VERSION} .*found version {version or 1}: .*"):
        load(path)
