"""The privacy loss distribution of discrete Gaussian noise (Canonne, Kamath, Steinke 2020, arXiv:2004.00010).

An integer that one record changes by one gets noise X with P(X = x) proportional to
exp(-x^2 / (2 sigma^2)). At output x the loss between the two neighbours is (1/2 - x) / sigma^2.
Adding a record mirrors removing one, so one distribution serves both.

Discretisation is that of "connect the dots" (Doroshenko et al. 2022, arXiv:2207.04380): each
loss is spread over its two neighbours on the grid such that the masses under *both* data sets
stay the same. By Jensen's inequality no hockey-stick divergence falls. dp-accounting does the
same one value at a time; sums over thousands of values need arrays.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# The mass outside (12 sigma for the table) is counted as an infinite loss.
REACH = 12
OUTSIDE = 1e-22
# A table of 24 sigma values would be too long beyond this.
MAX_STDDEV = 1e5


@lru_cache(maxsize=16)
def discrete_gaussian_losses(noise_stddev: float, interval: float) -> Any:
    """Returns dp-accounting's `PrivacyLossDistribution` of one count, pessimistic on a grid of `interval`.

    Unit: one record; neighbours: add or remove one; sensitivity: 1.
    """
    losses, chance = _bounded(noise_stddev) if noise_stddev > MAX_STDDEV else _table(noise_stddev)
    masses = _spread(losses, chance, interval)
    return pld.PrivacyLossDistribution(
        pld_pmf.create_pmf(masses, interval, OUTSIDE, pessimistic_estimate=True)
    )


def _table(noise_stddev: float) -> tuple[FloatArray, FloatArray]:
    """Returns all losses within reach, ascending, and their probabilities."""
    bound = math.ceil(REACH * noise_stddev)
    noise = np.arange(bound, -bound - 1, -1)
    weights = np.exp(-0.5 * (noise / noise_stddev) ** 2)
    return (0.5 - noise) / noise_stddev**2, weights / weights.sum()


def _bounded(noise_stddev: float) -> tuple[FloatArray, FloatArray]:
    # A loss beyond 10 / sigma takes noise beyond 10 sigma - 1, of probability below 1e-22; short of that, no
    # mechanism is worse than randomised response (Kairouz, Oh, Viswanath 2015, arXiv:1311.0776, Theorem 3.4).
    loss = 10 / noise_stddev
    return np.array([-loss, loss]), np.array([1.0, math.exp(loss)]) / (1 + math.exp(loss))


def _spread(losses: FloatArray, chance: FloatArray, interval: float) -> dict[int, float]:
    below = np.floor(losses / interval).astype(np.int64)
    share_above = np.clip(np.expm1(below * interval - losses) / math.expm1(-interval), 0.0, 1.0)
    starts = np.flatnonzero(np.diff(below, prepend=below[0] - 1))
    masses: dict[int, float] = defaultdict(float)
    for offset, part in ((0, chance * (1 - share_above)), (1, chance * share_above)):
        for point, mass in zip(below[starts], np.add.reduceat(part, starts), strict=True):
            masses[int(point) + offset] += float(mass)
    return masses
