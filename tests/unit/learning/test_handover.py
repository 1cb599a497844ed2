"""Arrays reach TensorFlow without a copy where they may, and with the right rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fedpipe.data.inputs import Inputs
from fedpipe.learning.handover import Records, lend
from fedpipe.learning.local_task import LocalTask
from fedpipe.memory import ALIGNMENT, align, empty_aligned, is_aligned

FULL = np.arange(12, dtype=np.float32).reshape(4, 3)


def make_task(features: Inputs, batches: list[list[int]], **changes: Any) -> LocalTask:
    return LocalTask(
        weights=np.zeros(2, np.float32),
        features=features,
        labels=np.arange(features.shape[0], dtype=np.int32),
        batches=[np.array(batch, np.int32) for batch in batches],
        noise=np.zeros((len(batches), 2), np.float32),
        clipping_norm=1.0,
        local_step_size=0.1,
        **changes,
    )


@pytest.fixture
def on_disk(tmp_path: Path) -> Inputs:
    """Records 0 to 3 of three features each, in a file."""
    FULL.tofile(tmp_path / "features")
    return np.memmap(tmp_path / "features", np.float32, "r", shape=(4, 3))


def test_aligned_memory_is_shared() -> None:
    array = empty_aligned((3, 5))
    array[:] = 1
    tensor = lend(array)
    array[2, 4] = 7
    assert tensor.numpy()[2, 4] == 7


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_nothing_can_be_lent(shape: tuple[int, ...]) -> None:
    assert lend(empty_aligned(shape)).shape == shape


def test_other_memory_is_copied() -> None:
    array = empty_aligned((17,))
    array[:] = np.arange(17)
    shifted, locked, strided = array[1:], array.copy(), array[::2]
    locked.flags.writeable = False
    for other in (shifted, locked, strided):
        np.testing.assert_array_equal(lend(other).numpy(), other)
    tensor = lend(shifted)
    array[1] = 99
    assert tensor.numpy()[0] == 1


def test_align_copies_only_what_needs_it() -> None:
    array = empty_aligned((4, 16))
    array[:] = np.arange(64).reshape(4, 16)
    assert align(array) is array
    moved = align(array[:, 1:])
    assert is_aligned(moved)
    assert moved.ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(moved, array[:, 1:])


@pytest.mark.parametrize("batches", [[[3, 1]], [[0, 2], [2, 3]], [[]], [[], []], [[1, 1], [1]]])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_batch_finds_its_records(batches: list[list[int]], sparse: bool) -> None:
    task = make_task(
        csr_matrix(FULL) if sparse else FULL, batches, example_weights=np.arange(4, dtype=np.float32) / 4
    )
    records = Records()
    for _ in range(2):  # its scratch memory is used again
        features, labels, weights, rows = records.of(task)
        drawn = [row for batch in batches for row in batch]
        np.testing.assert_array_equal(features.numpy()[rows], FULL[drawn])
        np.testing.assert_array_equal(labels[rows], drawn)
        np.testing.assert_array_equal(weights[rows], np.array(drawn, np.float32) / 4)


def test_of_records_on_disk_only_those_drawn_are_read(on_disk: Inputs) -> None:
    features, labels, _, rows = Records().of(make_task(on_disk, [[3, 1], [3]]))
    assert features.shape == (2, 3)
    np.testing.assert_array_equal(features.numpy()[rows], FULL[[3, 1, 3]])
    np.testing.assert_array_equal(labels[rows], [3, 1, 3])


def test_padding_of_users_stays_padding_when_their_records_lie_on_disk(on_disk: Inputs) -> None:
    features, labels, _, rows = Records().of(make_task(on_disk, [[3, 1, 2, -1 - 2]], max_records=2))
    assert [bool(row < 0) for row in rows] == [False, False, False, True]
    places = np.where(rows < 0, -1 - rows, rows)
    np.testing.assert_array_equal(features.numpy()[places], FULL[[3, 1, 2, 2]])
    np.testing.assert_array_equal(labels[places], [3, 1, 2, 2])


def test_scratch_memory_keeps_nothing_of_the_client_before() -> None:
    records = Records()
    records.of(make_task(csr_matrix(np.full((9, 3), 5, np.float32)), [list(range(9))]))
    later = make_task(csr_matrix(np.zeros((4, 3), np.float32)), [list(range(4))])
    assert not records.of(later)[0].numpy().any()
