"""A pair of shares as bytes: `FPS1`, rank, dimensions, both shares. See docs/encrypted-client.md."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import EncryptedError

MAGIC = b"FPS1"
CONTENT_TYPE = "application/octet-stream"
WORD_BYTES = 8

Words = NDArray[np.int64]
Pair = tuple[Words, Words]


def encode_pair(pair: Pair) -> bytes:
    """Returns the bytes of two shares of one shape.

    >>> encode_pair((np.array([[1]]), np.array([[-2]]))).hex(" ", 4)
    '46505331 02000000 01000000 01000000 01000000 00000000 feffffff ffffffff'
    """
    first, second = (np.ascontiguousarray(share, dtype="<i8") for share in pair)
    if first.shape != second.shape:
        raise EncryptedError(f"Expected two shares of one shape, found {first.shape} and {second.shape}.")
    return _header(first.shape) + first.tobytes() + second.tobytes()


def encoded_bytes(shape: Sequence[int]) -> int:
    """Returns the length of a pair of that shape on the wire."""
    return len(_header(shape)) + 2 * WORD_BYTES * math.prod(shape)


def decode_pair(body: bytes, shape: Sequence[int]) -> Pair:
    """Returns the pair that `body` holds, int64 of exactly `shape`.

    Raises:
      EncryptedError: it holds anything else.
    """
    header = _header(shape)
    if len(body) != encoded_bytes(shape) or not body.startswith(header):
        raise EncryptedError(
            f"Expected a pair of shares of shape {tuple(shape)} in {encoded_bytes(shape)} bytes, "
            f"found {len(body)} bytes of another form."
        )
    words = np.frombuffer(body, dtype="<i8", offset=len(header)).astype(np.int64)
    first, second = words.reshape(2, *shape)
    return first, second


def _header(shape: Sequence[int]) -> bytes:
    return MAGIC + struct.pack(f"<{1 + len(shape)}I", len(shape), *shape)
