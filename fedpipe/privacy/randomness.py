"""Random numbers for noise and sampling. Secure by default, seeded for tests only.

Whoever could guess these numbers could subtract the noise, so they come from the operating
system's generator at the client that draws them; no seed for them ever arrives from a
coordinator.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import PrivacyError

Kind = Literal["secure", "seeded"]
# Beyond it no test tells seeded discrete Gaussian noise from rounded normal noise.
MAX_TABLE_STDDEV = 1e4


class Randomness(Protocol):
    """A source of the three distributions that mechanisms need."""

    kind: Kind

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns `size` independent coins, each true with `probability`."""

    def normal(self, size: int) -> NDArray[np.float64]:
        """Returns `size` independent standard normals, with tails beyond 8 sigma."""

    def discrete_gaussian(self, stddev: float, size: int) -> NDArray[np.int64]:
        """Returns `size` independent discrete Gaussian integers with parameter `stddev`."""


class SecureRandomness:
    """Draws from the operating system's cryptographic generator."""

    kind: Kind = "secure"

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns coins whose bias is `probability` rounded down to a multiple of 2^-63."""
        _check(0 <= probability <= 1, f"a probability, found {probability}")
        words = np.frombuffer(os.urandom(8 * size), dtype=np.uint64) >> np.uint64(1)
        return words < np.uint64(int(probability * 2**63))

    def normal(self, size: int) -> NDArray[np.float64]:
        """Returns normals by Box and Muller (1958) from 53-bit uniforms."""
        half = (size + 1) // 2
        words = np.frombuffer(os.urandom(16 * half), dtype=np.uint64) >> np.uint64(11)
        return _box_muller(words.reshape(2, half))[:size]

    def discrete_gaussian(self, stddev: float, size: int) -> NDArray[np.int64]:
        """Returns exact samples (Canonne, Kamath, Steinke 2020, Algorithm 3) from OpenDP."""
        _check(0 < stddev < np.inf, f"a positive finite noise_stddev, found {stddev}")
        return np.asarray(_opendp_sampler(stddev)([0] * size), dtype=np.int64)


class SeededRandomness:
    """Draws that can be repeated: for tests. Whatever they make is marked `seeded`."""

    kind: Kind = "seeded"

    def __init__(self, seed: int | list[int]) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns repeatable coins."""
        _check(0 <= probability <= 1, f"a probability, found {probability}")
        return self._generator.random(size) < probability

    def normal(self, size: int) -> NDArray[np.float64]:
        """Returns repeatable standard normals."""
        return self._generator.standard_normal(size)

    def discrete_gaussian(self, stddev: float, size: int) -> NDArray[np.int64]:
        """Returns repeatable discrete Gaussian integers, by inversion of the table within 12 sigma."""
        _check(0 < stddev < np.inf, f"a positive finite noise_stddev, found {stddev}")
        if stddev > MAX_TABLE_STDDEV:
            return np.asarray(np.rint(stddev * self.normal(size)), dtype=np.int64)
        bound = int(np.ceil(12 * stddev)) + 1
        support = np.arange(-bound, bound + 1)
        weights = np.exp(-(support.astype(float) ** 2) / (2 * stddev**2))
        cumulative = np.cumsum(weights) / weights.sum()
        return support[np.searchsorted(cumulative[:-1], self._generator.random(size))]


def _check(valid: bool, expectation: str) -> None:
    if not valid:
        raise PrivacyError(f"Expected {expectation}.")


def _box_muller(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    # (word + 1) / 2^53 lies in (0, 1]: the logarithm is finite and reaches 8.57 sigma.
    radius = np.sqrt(-2.0 * np.log((words[0].astype(np.float64) + 1.0) * 2.0**-53))
    angle = 2.0 * np.pi * 2.0**-53 * words[1].astype(np.float64)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def _opendp_sampler(stddev: float) -> Callable[[list[int]], Any]:
    import opendp.prelude as opendp

    opendp.enable_features("contrib")
    domain = opendp.vector_domain(opendp.atom_domain(T="i64"))
    sampler: Callable[[list[int]], Any] = opendp.m.make_gaussian(
        domain, opendp.l2_distance(T=float), scale=stddev
    )
    return sampler
