"""How a client's arrays reach TensorFlow: without a copy where their memory allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedpipe.data.inputs import Inputs, dense_rows
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.memory import align, empty_aligned, is_aligned

SCRATCH_BYTES = 1 << 26  # kept between clients; larger batches get memory of their own
DRAWN_BYTES = 1 << 28  # of all batches of a task in full, that are handed over together


def lend(array: NDArray[np.float32]) -> tf.Tensor:
    """Returns a tensor that shares the memory of `array`, or a copy where it must.

    The tensor must be gone before `array` changes.
    """
    if array.size and array.flags.writeable and is_aligned(array):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


class Records:
    """Hands the records of one task after the other to TensorFlow. Not for two threads at once."""

    def __init__(self) -> None:
        self._scratch = empty_aligned((0,))
        self._lent: Inputs | None = None

    @contextmanager
    def lent(self, task: LocalTask) -> Iterator[None]:
        """Lets `read` see the records of `task`."""
        self._lent = task.features
        try:
            yield
        finally:
            self._lent = None

    def read(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Returns some records of the task that is worked on, in full: float32 (len(rows), num_features)."""
        lent = np.zeros((0, 0), np.float32) if self._lent is None else self._lent
        return np.ascontiguousarray(dense_rows(lent, rows))

    def of(self, task: LocalTask) -> tuple[Any, ...]:
        """Returns features, labels, example weights, and the rows of all batches in these."""
        batches = [*task.batches, np.zeros(0, np.int32)]
        rows = np.concatenate(batches).astype(np.int32, copy=False)
        features, labels, weights = task.features, task.labels, task.example_weights
        if weights is None:
            weights = np.ones(len(labels), np.float32)
        if is_read_by_batch(task):
            return np.zeros((0, features.shape[1]), np.float32), labels, weights, rows
        if isinstance(features, csr_matrix):
            drawn, rows = _drawn(rows, task)
            return lend(self._dense(features, drawn)), labels[drawn], weights[drawn], rows
        if isinstance(features, np.memmap):  # larger than memory, perhaps: only what is drawn is read
            drawn, rows = _drawn(rows, task)
            return lend(align(features[drawn])), labels[drawn], weights[drawn], rows
        return lend(features), labels, weights, rows

    def _dense(self, features: csr_matrix, drawn: NDArray[np.int32]) -> NDArray[np.float32]:
        shape = (len(drawn), features.shape[1])
        size = shape[0] * shape[1]
        if 4 * size > SCRATCH_BYTES:
            room = empty_aligned((size,))
        else:
            if self._scratch.size < size:
                self._scratch = empty_aligned((size,))
            room = self._scratch[:size]
        chosen: csr_matrix = features[drawn]
        return np.asarray(chosen.toarray(out=room.reshape(shape)))


def is_read_by_batch(task: LocalTask) -> bool:
    """Returns whether what is drawn of sparse or stored records is too much to be handed over together."""
    if not isinstance(task.features, (csr_matrix, np.memmap)):
        return False
    drawn = min(sum(map(len, task.batches)), task.features.shape[0])
    return bool(4 * drawn * task.features.shape[1] > DRAWN_BYTES)


def _drawn(rows: NDArray[np.int32], task: LocalTask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns the distinct rows, and where each of `rows` is among them; one without weight stays so."""
    if len(task.batches) == task.max_records == 1:
        return rows, np.arange(len(rows), dtype=np.int32)
    absent = rows < 0
    drawn, places = np.unique(np.where(absent, -1 - rows, rows), return_inverse=True)
    return drawn, np.where(absent, -1 - places, places).astype(np.int32)
