"""Normal deviates from random bytes, fast enough that noise costs less than the gradients it hides.

Box and Muller (1958): for independent u in (0, 1] and an angle v, sqrt(-2 ln u) cos v and
sqrt(-2 ln u) sin v are independent standard normals. Both are used.

The logarithm is taken in float64 of 63 bits, so that tails reach sqrt(2 ln 2^64) = 9.4 sigma;
24 bits would cut them at 5.8. The angle is float32, from 32 bits. Values are rounded to float32,
like the sums they are added to: the guarantee is that of real numbers, and the certificate says
so. Rounding leaks in theory (Mironov 2012; Holohan and Braghin 2021, arXiv:2107.10138).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14  # pairs at a time: all that is computed for them stays in the processor's cache
GAP = 64
LINE = 16  # float32 of a cache line: vector instructions want both halves of a block to begin at one
MASK = np.int64(2**63 - 1)
# A hair more than ln 2^63, so that no rounding makes the square of a radius negative.
TOP = 63 * math.log(2) + 1e-12

# Overwrites a contiguous array with random bytes.
Stream = Callable[[NDArray[Any]], None]


def fill_normals(out: NDArray[np.float32], stream: Stream, stddev: float = 1.0) -> None:
    """Overwrites `out`, float32 (n,), with independent normals of mean 0 made from `stream`."""
    pairs = _pairs_at_a_time((out.size + 1) // 2)
    words, turns = np.empty(pairs, np.int64), np.empty(pairs, np.int32)
    logs = np.empty(pairs)
    # With a gap: right beside each other, numpy takes them to overlap and computes one at a time.
    radius, angle, trigonometric = np.empty((3, pairs + GAP), np.float32)[:, :pairs]
    scale = np.float32(math.sqrt(2) * stddev)
    for start in range(0, out.size, max(2 * pairs, 1)):
        stream(words)
        stream(turns)
        _square_radii(words, logs)
        radius[:] = logs
        np.sqrt(radius, out=radius)
        radius *= scale
        angle[:] = turns
        angle *= np.float32(math.pi * 2.0**-31)
        first = out[start : start + pairs]
        second = out[start + pairs : start + 2 * pairs]
        for target, function in ((first, np.cos), (second, np.sin)):
            function(angle, out=trigonometric)
            np.multiply(radius[: target.size], trigonometric[: target.size], out=target)


def _pairs_at_a_time(wanted: int) -> int:
    """Returns the size of equal blocks that make `wanted` pairs with little to spare."""
    if wanted <= LINE:
        return wanted
    num_blocks = math.ceil(wanted / BLOCK)
    return LINE * math.ceil(wanted / num_blocks / LINE)


def _square_radii(words: NDArray[np.int64], logs: NDArray[np.float64]) -> None:
    """Overwrites `logs` with -ln u = ln 2^63 - ln(w + 1/2), for w the last 63 bits of each word."""
    # Half a unit keeps u off zero, where the logarithm is infinite.
    np.bitwise_and(words, MASK, out=words)
    logs[:] = words
    logs += 0.5
    np.log(logs, out=logs)
    np.subtract(TOP, logs, out=logs)
