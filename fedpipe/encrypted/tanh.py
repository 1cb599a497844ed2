"""The hyperbolic tangent as cubic pieces, for computations on shares.

Comparisons are what costs there, so the pieces are few; each has about the same error. Coefficients are
multiples of 2^-16, as fixed-point numbers are: the highest power's is rounded first, and the lower ones make
up for it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.shares import SCALE

MAX_ERROR = 1e-4

_EDGES = (0.379, 0.848, 1.687, 2.502, 3.705, 5.0)
_NUM_POINTS = 200

Cubic = tuple[float, ...]


def _fit(lower: float, upper: float, powers: tuple[int, ...]) -> Cubic:
    """Returns coefficients of x^0 to x^3, least squares over Chebyshev points."""
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    points = middle + radius * np.cos(np.linspace(0, np.pi, _NUM_POINTS))
    left: NDArray[np.float64] = np.tanh(points)
    found = [0.0] * 4
    for power in sorted(powers, reverse=True):
        rest = [each for each in powers if each <= power]
        solution = np.linalg.lstsq(points[:, np.newaxis] ** np.array(rest), left, rcond=None)[0]
        found[power] = round(solution[rest.index(power)] * SCALE) / SCALE
        left = left - found[power] * points**power
    return tuple(found)


def _fit_all() -> tuple[Cubic, ...]:
    right = [_fit(*ends, (0, 1, 2, 3)) for ends in pairwise(_EDGES)]
    beyond = (round((1 + np.tanh(_EDGES[-1])) / 2 * SCALE) / SCALE, 0.0, 0.0, 0.0)
    middle = _fit(-_EDGES[0], _EDGES[0], (1, 3))
    positive = [*right, beyond]
    negative = [tuple(c * (-1) ** (power + 1) for power, c in enumerate(piece)) for piece in positive]
    return (*reversed(negative), middle, *positive)


# Piece i holds up to knot i, the last one beyond.
KNOTS = (*(-edge for edge in reversed(_EDGES)), *_EDGES)
COEFFICIENTS = _fit_all()


def approximate(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns what the pieces make of `values`: tanh to within MAX_ERROR.

    >>> round(float(approximate(np.array([1.0]))[0]), 3)
    0.762
    """
    pieces = np.array(COEFFICIENTS)[np.searchsorted(KNOTS, values)]
    return np.asarray(sum(pieces[..., power] * values**power for power in range(4)))
