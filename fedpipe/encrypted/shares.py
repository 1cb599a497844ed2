"""Fixed-point numbers in replicated secret shares, as three-party ABY3 computes on them.

Mohassel and Rindal 2018 (https://eprint.iacr.org/2018/403). A number v is the word round(v * 2^16) modulo
2^64, and a word is the sum of three shares of which any two are uniform. Party i holds shares i and i + 1
(modulo 3): one party learns nothing, any two learn everything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedpipe.encrypted.wire import WORD_BYTES, Pair, Words
from fedpipe.errors import EncryptedError

NUM_PARTIES = 3
FRACTIONAL_BITS = 16
SCALE = 1 << FRACTIONAL_BITS
# A product carries 32 fractional bits until it is cut back, and cutting needs the two highest bits free.
PRODUCT_LIMIT = 2.0**30


def encode_fixed(values: ArrayLike, *, max_magnitude: float) -> Words:
    """Returns the words of finite numbers of at most `max_magnitude`, int64 of the same shape.

    Raises:
      EncryptedError: a number is NaN, infinite or larger. Shares would hide an overflow from everybody.
    """
    numbers = np.asarray(values, dtype=np.float64)
    # Written so that NaN is refused as well.
    refused = np.argwhere(~(np.abs(numbers) <= max_magnitude))
    if len(refused):
        raise EncryptedError(
            f"Expected finite inputs of at most {max_magnitude:g}, found another at {_place(refused[0])}: "
            "correct that row."
        )
    words: Words = np.rint(numbers * SCALE).astype(np.int64)
    return words


def decode_fixed(words: Words) -> NDArray[np.float64]:
    """Returns the numbers that words stand for.

    >>> decode_fixed(np.array([98304, -65536])).tolist()
    [1.5, -1.0]
    """
    return words.astype(np.float64) / SCALE


def share(words: Words) -> tuple[Pair, Pair, Pair]:
    """Returns each party's pair, from fresh words of the operating system's generator.

    Never used twice: two sharings with a share in common can tell the difference of what they hide.
    """
    first, second = _random_words(words.shape), _random_words(words.shape)
    third = words - first - second  # int64 arrays wrap modulo 2^64
    return (first, second), (second, third), (third, first)


def reconstruct(pairs: Sequence[Pair]) -> Words:
    """Returns the words that the parties' pairs share.

    Raises:
      EncryptedError: two parties disagree on the share that both hold. That finds faults, not malice: a
        party that lies while they compute makes its neighbour hold the same wrong share.
    """
    for party in range(NUM_PARTIES):
        neighbor = (party + 1) % NUM_PARTIES
        if not np.array_equal(pairs[party][1], pairs[neighbor][0]):
            raise EncryptedError(
                f"Expected parties {party} and {neighbor} to hold the same share, found two: "
                "one of them is faulty; ask again, and tell the operator."
            )
    (first, second), (_, third), _ = pairs
    return first + second + third


def _random_words(shape: tuple[int, ...]) -> Words:
    return np.frombuffer(os.urandom(WORD_BYTES * math.prod(shape)), dtype=np.int64).reshape(shape)


def _place(index: NDArray[np.int64]) -> str:
    return f"row {index[0] + 1}, input {index[1] + 1}" if len(index) == 2 else f"position {index.tolist()}"
