"""SipHash-2-4, as `tf.strings.to_hash_bucket_strong` computes it, without TensorFlow.

Aumasson and Bernstein 2012 (https://eprint.iacr.org/2012/351). The key is public: it makes
clients, server and served model agree, it hides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HASH_KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)

Words = NDArray[np.uint64]


def hash_bucket(text: str, num_buckets: int) -> int:
    """Returns the bucket of `text` in [0, num_buckets).

    >>> hash_bucket("acme bank", 1000)
    54
    """
    return int(hash_buckets([text], num_buckets)[0])


def hash_buckets(texts: Sequence[str], num_buckets: int) -> NDArray[np.int64]:
    """Returns the bucket of every text, int64 (n,) in [0, num_buckets)."""
    padded = [_pad(text.encode()) for text in texts]
    lengths = np.array([len(data) for data in padded], dtype=np.int64)
    hashes = np.zeros(len(padded), dtype=np.uint64)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        words = np.frombuffer(b"".join(padded[row] for row in rows), dtype="<u8")
        hashes[rows] = _siphash(words.reshape(len(rows), -1).astype(np.uint64), *HASH_KEY)
    return (hashes % np.uint64(num_buckets)).astype(np.int64)


def siphash(data: bytes, key0: int, key1: int) -> int:
    """Returns the 64-bit SipHash-2-4 of `data` under the key (key0, key1)."""
    words = np.frombuffer(_pad(data), dtype="<u8").astype(np.uint64)
    return int(_siphash(words[np.newaxis], key0, key1)[0])


def _pad(data: bytes) -> bytes:
    return data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])


def _siphash(words: Words, key0: int, key1: int) -> Words:
    """Returns the hashes of n messages of equal length, uint64 (n, words), all computed at once."""
    starts = (
        key0 ^ 0x736F6D6570736575,
        key1 ^ 0x646F72616E646F6D,
        key0 ^ 0x6C7967656E657261,
        key1 ^ 0x7465646279746573,
    )
    state = [np.full(len(words), start, dtype=np.uint64) for start in starts]
    for word in words.T:
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(v: list[Words], count: int) -> None:
    # Sums wrap at 2^64, as arrays of uint64 do.
    for _ in range(count):
        v[0] = v[0] + v[1]
        v[1] = _rotate(v[1], 13) ^ v[0]
        v[0] = _rotate(v[0], 32)
        v[2] = v[2] + v[3]
        v[3] = _rotate(v[3], 16) ^ v[2]
        v[0] = v[0] + v[3]
        v[3] = _rotate(v[3], 21) ^ v[0]
        v[2] = v[2] + v[1]
        v[1] = _rotate(v[1], 17) ^ v[2]
        v[2] = _rotate(v[2], 32)


def _rotate(word: Words, bits: int) -> Words:
    return (word << np.uint64(bits)) | (word >> np.uint64(64 - bits))
