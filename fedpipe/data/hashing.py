"""SipHash-2-4, as `tf.strings.to_hash_bucket_strong` computes it, without TensorFlow.

Aumasson and Bernstein 2012 (https://eprint.iacr.org/2012/351). The key is public: it makes
clients, server and served model agree, it hides nothing.
"""

from __future__ import annotations

from functools import lru_cache

HASH_KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
_MASK = (1 << 64) - 1


@lru_cache(maxsize=1 << 16)
def hash_bucket(text: str, num_buckets: int) -> int:
    """Returns the bucket of `text` in [0, num_buckets)."""
    return siphash(text.encode(), *HASH_KEY) % num_buckets


def siphash(data: bytes, key0: int, key1: int) -> int:
    """Returns the 64-bit SipHash-2-4 of `data` under the key (key0, key1)."""
    state = [
        key0 ^ 0x736F6D6570736575,
        key1 ^ 0x646F72616E646F6D,
        key0 ^ 0x6C7967656E657261,
        key1 ^ 0x7465646279746573,
    ]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        state[3] ^= word
        _rounds(state, 2)
        state[0] ^= word
    state[2] ^= 0xFF
    _rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        v[0] = (v[0] + v[1]) & _MASK
        v[1] = _rotate(v[1], 13) ^ v[0]
        v[0] = _rotate(v[0], 32)
        v[2] = (v[2] + v[3]) & _MASK
        v[3] = _rotate(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & _MASK
        v[3] = _rotate(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & _MASK
        v[1] = _rotate(v[1], 17) ^ v[2]
        v[2] = _rotate(v[2], 32)


def _rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & _MASK
