"""Room for what is too large for memory: files without names, which are gone when the process is.

Records and what is made of them must not lie about in plain after a crash. Such a file has no name that
another process could open it by, and its room is free again with the last use, whatever ends the process.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedpipe.errors import DataError
from fedpipe.memory import empty_aligned

MEMORY_BYTES = 1 << 27  # of records as text, and of their model inputs, that stay in memory


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Where data lies: in memory up to `memory_bytes`, beyond in files of `directory`, or the system's."""

    directory: Path | None = None
    memory_bytes: int = MEMORY_BYTES

    def open(self) -> IO[bytes]:
        """Returns a new file that has no name.

        Raises:
          DataError: it cannot be made.
        """
        with self.room_expected():
            if self.directory is not None:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self.directory)

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Returns float32 zeros of `shape`: aligned memory, or a `numpy.memmap` of a file.

        Raises:
          DataError: the disk is full.
        """
        size = 4 * math.prod(shape)
        if size <= self.memory_bytes:
            array = empty_aligned(shape)
            array[...] = 0
            return array
        with self.open() as file, self.room_expected():
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would kill whoever writes to the map
            return np.memmap(file, np.float32, "r+", shape=shape)

    @contextmanager
    def room_expected(self) -> Iterator[None]:
        """Says clearly what is wrong when the files cannot be written."""
        try:
            yield
        except OSError as error:
            where = self.directory or tempfile.gettempdir()
            raise DataError(
                f"Expected room in {where} for records beyond {self.memory_bytes >> 20} MiB, found: "
                f"{error.strerror or error}. Free some."
            ) from None


def mapped(file: IO[bytes], dtype: DTypeLike) -> NDArray[Any]:
    """Returns all that `file` holds as an array that is read from it when it is used."""
    file.flush()
    return np.memmap(file, dtype, "r") if file.tell() else np.zeros(0, dtype)
