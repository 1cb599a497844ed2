"""Random numbers for noise and sampling. Secure by default, seeded for tests only.

Whoever could guess these numbers could subtract the noise, so they come from a cryptographic
generator at the client that draws them, under a fresh key from the operating system for every
draw; no seed for them ever arrives from a coordinator.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import PrivacyError
from fedpipe.memory import empty_aligned
from fedpipe.privacy.normals import Stream, fill_normals

Kind = Literal["secure", "seeded"]
# Beyond it no test tells seeded discrete Gaussian noise from rounded normal noise.
MAX_TABLE_STDDEV = 1e4
STREAM_BYTES = 1 << 16  # stays in the processor's cache
ZEROS = memoryview(bytes(STREAM_BYTES))


class Randomness(Protocol):
    """A source of the three distributions that mechanisms need."""

    kind: Kind

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns `size` independent coins, each true with `probability`."""

    def normal(self, size: int, stddev: float = 1.0) -> NDArray[np.float32]:
        """Returns `size` independent normals of mean 0, with tails beyond 8 sigma."""

    def discrete_gaussian(self, stddev: float, size: int) -> NDArray[np.int64]:
        """Returns `size` independent discrete Gaussian integers with parameter `stddev`."""


class SecureRandomness:
    """Draws from AES-256 in counter mode, which costs a tenth of the operating system's generator.

    Every draw takes a new key from the system: there is no state that could be read, copied by a
    fork, or used twice.
    """

    kind: Kind = "secure"

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        """Returns coins whose bias is `probability` rounded down to a multiple of 2^-63."""
        _check(0 <= probability <= 1, f"a probability, found {probability}")
        words = np.empty(size, np.uint64)
        _fresh_stream()(words)
        words >>= np.uint64(1)
        return words < np.uint64(int(probability * 2**63))

    def normal(self, size: int, stddev: float = 1.0) -> NDArray[np.float32]:
        """Returns normals by Box and Muller (1958): radii from 63 random bits, angles from 32."""
        draws = empty_aligned((size,))
        fill_normals(draws, _fresh_stream(), stddev)
        return draws

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

    def normal(self, size: int, stddev: float = 1.0) -> NDArray[np.float32]:
        """Returns repeatable normals."""
        return self._generator.standard_normal(size).astype(np.float32) * np.float32(stddev)

    def discrete_gaussian(self, stddev: float, size: int) -> NDArray[np.int64]:
        """Returns repeatable discrete Gaussian integers, by inversion of the table within 12 sigma."""
        _check(0 < stddev < np.inf, f"a positive finite noise_stddev, found {stddev}")
        if stddev > MAX_TABLE_STDDEV:
            return np.asarray(np.rint(stddev * self._generator.standard_normal(size)), dtype=np.int64)
        bound = int(np.ceil(12 * stddev)) + 1
        support = np.arange(-bound, bound + 1)
        weights = np.exp(-(support.astype(float) ** 2) / (2 * stddev**2))
        cumulative = np.cumsum(weights) / weights.sum()
        return support[np.searchsorted(cumulative[:-1], self._generator.random(size))]


def _check(valid: bool, expectation: str) -> None:
    if not valid:
        raise PrivacyError(f"Expected {expectation}.")


def _fresh_stream() -> Stream:
    """Returns a function that overwrites arrays with random bytes, never twice the same."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    secret = os.urandom(48)
    encryptor: Any = Cipher(algorithms.AES(secret[:32]), modes.CTR(secret[32:])).encryptor()

    def fill(array: NDArray[Any]) -> None:
        octets = array.view(np.uint8)
        for start in range(0, octets.size, STREAM_BYTES):
            part = octets[start : start + STREAM_BYTES]
            encryptor.update_into(ZEROS[: part.size], part)

    return fill


def _opendp_sampler(stddev: float) -> Callable[[list[int]], Any]:
    import opendp.prelude as opendp

    opendp.enable_features("contrib")
    domain = opendp.vector_domain(opendp.atom_domain(T="i64"))
    sampler: Callable[[list[int]], Any] = opendp.m.make_gaussian(
        domain, opendp.l2_distance(T=float), scale=stddev
    )
    return sampler
