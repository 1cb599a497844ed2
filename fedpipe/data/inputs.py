"""Model inputs of many records: in full or sparse, in memory or read from a file as they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from fedpipe.data.table import Table
from fedpipe.data.transform import ImageFeature, Transform, VectorFeature
from fedpipe.scratch import Scratch, mapped

CHUNK_ROWS = 8192
SPARSE_WIDTH = 8  # inputs for each column, from which most of them are zero

# Model inputs of n records, float32 (n, num_features), in full or sparse.
Inputs: TypeAlias = NDArray[np.float32] | csr_matrix


def encode_compactly(transform: Transform, table: Table, scratch: Scratch | None = None) -> Inputs:
    """Returns what `transform` makes of the records, as a sparse matrix if most inputs must be zero.

    A million complaints with 1,200 inputs each take 5 GB in full. What is still large lies in `scratch`.

    Raises:
      DataError: a column is missing, or the disk is full.
    """
    room = scratch or Scratch()
    wide = any(isinstance(feature, (VectorFeature, ImageFeature)) for feature in transform.features)
    if wide or transform.num_features < SPARSE_WIDTH * len(transform.features):
        return _full(transform, table, room)
    return _sparse(transform, table, room)


def dense_rows(inputs: Inputs, rows: NDArray[np.integer[Any]] | slice) -> NDArray[np.float32]:
    """Returns some of the records' inputs in full: float32 (len(rows), num_features)."""
    chosen = inputs[rows]
    full: NDArray[np.float32] = chosen.toarray() if isinstance(chosen, csr_matrix) else chosen
    return full


def _full(transform: Transform, table: Table, scratch: Scratch) -> NDArray[np.float32]:
    inputs = scratch.zeros((len(table), transform.num_features))
    start = 0
    for frame in _chunks(transform, table):
        transform.encode_into(frame, inputs[start : start + len(frame)])
        start += len(frame)
    return inputs


def _sparse(transform: Transform, table: Table, scratch: Scratch) -> csr_matrix:
    parts: list[csr_matrix] = []
    stored: _StoredRows | None = None
    for frame in _chunks(transform, table):
        parts.append(csr_matrix(transform.encode(frame)))
        if stored is None and sum(_num_bytes(part) for part in parts) > scratch.memory_bytes:
            stored = _StoredRows(scratch)
        if stored is not None:
            for part in parts:
                stored.add(part)
            parts.clear()
    if stored is None:
        return vstack(parts, format="csr")
    return stored.matrix(transform.num_features)


def _num_bytes(part: csr_matrix) -> int:
    return int(part.data.nbytes + part.indices.nbytes + part.indptr.nbytes)


class _StoredRows:
    """The values and columns of sparse rows in two files; where each row begins stays in memory."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._values: IO[bytes] = scratch.open()
        self._columns: IO[bytes] = scratch.open()
        self._starts = [np.zeros(1, np.int64)]

    def add(self, part: csr_matrix) -> None:
        with self._scratch.room_expected():
            self._values.write(part.data.tobytes())
            # Of 64 bits, as positions are: for arrays of two kinds scipy would copy one.
            self._columns.write(part.indices.astype(np.int64).tobytes())
        self._starts.append(self._starts[-1][-1] + part.indptr[1:].astype(np.int64))

    def matrix(self, width: int) -> csr_matrix:
        starts = np.concatenate(self._starts)
        matrix = csr_matrix((len(starts) - 1, width), dtype=np.float32)
        with self._scratch.room_expected(), self._values, self._columns:
            values, columns = mapped(self._values, np.float32), mapped(self._columns, np.int64)
        # One by one: scipy's constructor reads all columns, to make them smaller in memory if it can.
        matrix.data, matrix.indices, matrix.indptr = values, columns, starts
        return matrix


def _chunks(transform: Transform, table: Table) -> Iterator[pd.DataFrame]:
    """Yields the columns that `transform` reads, of at most CHUNK_ROWS records at a time."""
    transform.check_columns(table.columns)
    for frame in table.parts(list(dict.fromkeys(transform.columns))):
        for start in range(0, max(len(frame), 1), CHUNK_ROWS):
            yield frame.iloc[start : start + CHUNK_ROWS]
