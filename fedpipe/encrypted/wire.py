"""A pair of shares as bytes, for clients: what parties read and write, of a shape known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.party import pairs
from fedpipe.errors import EncryptedError

CONTENT_TYPE = "application/octet-stream"
WORD_BYTES = 8

Words = NDArray[np.int64]
Pair = tuple[Words, Words]


def encode_pair(pair: Pair) -> bytes:
    """Returns the bytes of two shares of one shape.

    >>> encode_pair((np.array([[1]]), np.array([[-2]]))).hex(" ", 4)
    '46505331 02000000 01000000 01000000 01000000 00000000 feffffff ffffffff'
    """
    first, second = pair
    if first.shape != second.shape:
        raise EncryptedError(f"Expected two shares of one shape, found {first.shape} and {second.shape}.")
    return pairs.encode(pair)


def encoded_bytes(shape: Sequence[int]) -> int:
    """Returns the length of a pair of that shape on the wire."""
    return len(pairs.header(shape)) + 2 * WORD_BYTES * math.prod(shape)


def decode_pair(body: bytes, shape: Sequence[int]) -> Pair:
    """Returns the pair that `body` holds, int64 of exactly `shape`.

    Raises:
      EncryptedError: it holds anything else.
    """
    if not body.startswith(pairs.header(shape)) or len(body) != encoded_bytes(shape):
        raise EncryptedError(
            f"Expected a pair of shares of shape {tuple(shape)} in {encoded_bytes(shape)} bytes, "
            f"found {len(body)} bytes of another form."
        )
    return pairs.decode(body)
