"""The transformation by hand, and bits that must not be wasted or used twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest, norm

from fedpipe.privacy.normals import BLOCK, Stream, fill_normals


def constant(word: int, turn: int) -> Stream:
    """Returns a stream of the same numbers, whatever is asked for."""

    def fill(array: NDArray[Any]) -> None:
        array[:] = word if array.dtype == np.int64 else turn

    return fill


def counted(calls: list[int]) -> Stream:
    generator = np.random.default_rng(5)

    def fill(array: NDArray[Any]) -> None:
        calls.append(array.nbytes)
        array[:] = np.frombuffer(generator.bytes(array.nbytes), array.dtype)

    return fill


def normals(size: int, stream: Stream) -> NDArray[np.float32]:
    draws = np.full(size, np.nan, np.float32)
    fill_normals(draws, stream)
    return draws


def test_pair_by_hand() -> None:
    # u = exp(-2): the radius is 2. A third of half a turn: cos = 1/2, sin = sqrt(3)/2.
    word, turn = int(math.exp(-2) * 2**63), 2**31 // 3
    np.testing.assert_allclose(normals(2, constant(word, turn)), [1.0, math.sqrt(3)], rtol=1e-6)


@pytest.mark.parametrize("word", [0, -(2**63)])
def test_smallest_word_reaches_beyond_nine_sigma_and_stays_finite(word: int) -> None:
    assert normals(2, constant(word, 0))[0] == pytest.approx(9.42, abs=0.01)


def test_largest_word_is_next_to_zero() -> None:
    assert np.abs(normals(2, constant(-1, 123))).max() < 2e-6


def test_tail_is_as_fine_as_the_bits_allow() -> None:
    # The three largest radii of 63 bits differ: a generator of 32 bits has them all at 6.7 sigma.
    radii = [float(normals(2, constant(word, 0))[0]) for word in range(3)]
    expected = [math.sqrt(-2 * math.log((word + 0.5) * 2.0**-63)) for word in range(3)]
    np.testing.assert_allclose(radii, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 2, 3, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK])
def test_every_place_is_filled_with_bits_of_its_own(size: int) -> None:
    calls: list[int] = []
    draws = normals(size, counted(calls))
    assert np.isfinite(draws).all()
    assert len(np.unique(draws)) >= 0.99 * size  # a few float32 coincide
    assert sum(calls) >= 12 * math.ceil(size / 2)


def test_both_halves_of_a_pair_are_normal_and_uncorrelated() -> None:
    draws = normals(20 * BLOCK, counted([])).astype(np.float64).reshape(10, 2, BLOCK)
    first, second = draws[:, 0].ravel(), draws[:, 1].ravel()
    for half in (first, second):
        assert kstest(half, "norm").statistic * math.sqrt(half.size) < 3
    for power in (1, 2, 3):
        spread = np.std(first**power) * np.std(second**power)
        covariance = np.mean((first**power - np.mean(first**power)) * second**power)
        assert abs(covariance) * math.sqrt(first.size) < 6 * spread


def test_quadrants_are_equally_likely() -> None:
    draws = normals(20 * BLOCK, counted([])).reshape(10, 2, BLOCK)
    quadrant = 2 * (draws[:, 0] > 0) + (draws[:, 1] > 0)
    counts = np.bincount(quadrant.ravel(), minlength=4)
    expected = quadrant.size / 4
    assert np.abs(counts - expected).max() < 6 * math.sqrt(expected)


def test_tails_have_their_mass() -> None:
    draws = np.abs(normals(400 * BLOCK, counted([])))
    for sigma in (3.0, 4.0):
        expected = draws.size * 2 * norm.sf(sigma)
        assert abs(np.sum(draws > sigma) - expected) < 6 * math.sqrt(expected)
