"""A party's two shares of an array, as docs/encrypted-client.md lays them out."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pair = Tuple["NDArray[np.int64]", "NDArray[np.int64]"]

MAGIC = b"FPS1"
_MAX_RANK = 4
_WORD = np.dtype("<i8")


class InvalidPairError(ValueError):
    """Bytes that are no pair."""


def encode(pair: Pair) -> bytes:
    """Returns the bytes of two int64 arrays of one shape.

    >>> decode(encode((np.array([[1, 2]]), np.array([[3, 4]]))))[1].tolist()
    [[3, 4]]
    """
    return header(pair[0].shape) + b"".join(np.ascontiguousarray(share, _WORD).tobytes() for share in pair)


def header(shape: Sequence[int]) -> bytes:
    """Returns what comes before the shares of an array of that shape."""
    return MAGIC + struct.pack(f"<{1 + len(shape)}I", len(shape), *shape)


def decode(data: bytes) -> Pair:
    """Returns the two arrays.

    Raises:
      InvalidPairError: the bytes are malformed.
    """
    shape = _read_shape(data)
    start, count = 8 + 4 * len(shape), math.prod(shape)
    if len(data) != start + 2 * count * _WORD.itemsize:
        raise InvalidPairError("Expected as many shares as the header says, found more or fewer.")
    shares: Any = np.frombuffer(data, _WORD, offset=start).astype(np.int64).reshape(2, *shape)
    return shares[0], shares[1]


def _read_shape(data: bytes) -> tuple[int, ...]:
    if len(data) < 8 or data[:4] != MAGIC:
        raise InvalidPairError("Expected a pair of shares, found something else.")
    (rank,) = struct.unpack_from("<I", data, 4)
    if not 1 <= rank <= _MAX_RANK or len(data) < 8 + 4 * rank:
        raise InvalidPairError(f"Expected an array of rank 1 to {_MAX_RANK}, found another.")
    return struct.unpack_from(f"<{rank}I", data, 8)
