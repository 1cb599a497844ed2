"""Records as text, part by part: what a shard larger than memory is read through.

While they are small together parts are in memory, else compressed in a file without a name (`scratch`).
Whoever goes through `parts` holds one of them at a time.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from fedpipe.scratch import Scratch

Rows = NDArray[np.bool_]


class _Part(Protocol):
    def __len__(self) -> int: ...

    def load(self, columns: list[str]) -> pd.DataFrame: ...

    def select(self, rows: Rows) -> _Part: ...


@dataclass(frozen=True, eq=False, repr=False)
class _FramePart:
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    def load(self, columns: list[str]) -> pd.DataFrame:
        return _with_columns(self.frame, columns)

    def select(self, rows: Rows) -> _Part:
        return _FramePart(self.frame[rows].reset_index(drop=True))


class _File:
    """A file that is closed with its last part."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        weakref.finalize(self, file.close)

    @property
    def number(self) -> int:
        return self._file.fileno()

    def append(self, content: pa.Buffer) -> int:
        """Returns where `content` begins."""
        offset = self._file.tell()
        self._file.write(content)
        self._file.flush()
        return offset


@dataclass(frozen=True, eq=False, repr=False)
class _FilePart:
    """Those of the stored records for which `rows` is true."""

    file: _File
    offset: int
    length: int
    rows: Rows

    def __len__(self) -> int:
        return int(self.rows.sum())

    def load(self, columns: list[str]) -> pd.DataFrame:
        # By position, not by seeking: threads and forked processes share a file's position.
        stored = os.pread(self.file.number, self.length, self.offset)
        table = pa.ipc.open_stream(pa.py_buffer(stored)).read_all()
        known = table.select([name for name in columns if name in table.column_names])
        return _with_columns(known.filter(pa.array(self.rows)).to_pandas(), columns)

    def select(self, rows: Rows) -> _Part:
        chosen = np.zeros_like(self.rows)
        chosen[np.flatnonzero(self.rows)[rows]] = True
        return replace(self, rows=chosen)


class Table:
    """n records of text under the names of its columns. Its repr shows none of them."""

    def __init__(self, columns: Sequence[str], parts: Sequence[_Part]) -> None:
        self.columns = tuple(columns)
        self._parts = tuple(part for part in parts if len(part))

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Table:
        """Returns the table of a frame's records, which stays in memory."""
        return cls(list(frame.columns), [_FramePart(frame)])

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def is_in_memory(self) -> bool:
        """Whether no part of it is in a file."""
        return all(isinstance(part, _FramePart) for part in self._parts)

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yields the records in order, with all columns or some: one frame at least, if an empty one."""
        names = list(self.columns if columns is None else columns)
        if not self._parts:
            yield pd.DataFrame({name: [] for name in names}, columns=names, dtype=str)
        for part in self._parts:
            yield part.load(names)

    def select(self, rows: Rows) -> Table:
        """Returns the records where `rows`, bool (n,), is true."""
        ends = np.cumsum([len(part) for part in self._parts])[:-1]
        chosen = np.split(rows, ends) if self._parts else []
        return Table(self.columns, [part.select(own) for part, own in zip(self._parts, chosen, strict=True)])

    def write_parquet(self, stream: IO[bytes]) -> None:
        """Writes all records as a Parquet file, part by part."""
        schema = pa.schema([(name, pa.string()) for name in self.columns])
        with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
            for frame in self.parts():
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))

    def to_frame(self) -> pd.DataFrame:
        """Returns all records, in memory."""
        return concatenated(list(self.parts()))


class TableWriter:
    """Makes a table of frames that come one after the other, none of them much larger than a part may be.

    Its columns are those of all frames; where a frame lacks one, its cells are empty.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._columns: dict[str, None] = {}
        self._frames: list[pd.DataFrame] = []
        self._num_bytes = 0
        self._file: _File | None = None
        self._stored: list[_Part] = []

    def add(self, frame: pd.DataFrame) -> None:
        """Adds records.

        Raises:
          DataError: they do not fit in memory, and not on the disk either.
        """
        self._columns |= dict.fromkeys(frame.columns)
        self._frames.append(frame)
        self._num_bytes += int(frame.memory_usage(deep=True).sum())
        if self._file is None and self._num_bytes > self._scratch.memory_bytes:
            self._file = _File(self._scratch.open())
        if self._file is not None:
            with self._scratch.room_expected():
                self._stored.extend(_store(each, self._file) for each in self._frames)
            self._frames.clear()

    def table(self) -> Table:
        """Returns what was added."""
        names = list(self._columns)
        frames = [_with_columns(frame, names) for frame in self._frames]
        in_memory = [_FramePart(concatenated(frames))] if frames else []
        return Table(names, [*self._stored, *in_memory])


def concatenated(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns the rows of one frame or more, all under the same columns."""
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _with_columns(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    if names == list(frame.columns):
        return frame
    absent = {name: "" for name in names if name not in frame.columns}
    return (frame.assign(**absent) if absent else frame)[names]


def _store(frame: pd.DataFrame, file: _File) -> _FilePart:
    cells = [pa.array(frame[name].tolist(), pa.large_string()) for name in frame.columns]
    batch = pa.record_batch(cells, names=list(frame.columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    return _FilePart(file, file.append(content), content.size, np.ones(len(frame), dtype=np.bool_))
