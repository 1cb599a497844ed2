"""What every `Randomness` promises. A false alarm has a probability below 1e-6 in each test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, kstest

from fedpipe.errors import PrivacyError
from fedpipe.privacy import Randomness, SecureRandomness, SeededRandomness
from fedpipe.privacy.normals import BLOCK

SIZE = 200_000
SIGMAS = 6.0  # a normal deviate is beyond with probability 2e-9


@pytest.fixture(params=["secure", "seeded"])
def randomness(request: pytest.FixtureRequest) -> Randomness:
    return SecureRandomness() if request.param == "secure" else SeededRandomness([2024, 7])


def masses(stddev: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    support = np.arange(-math.ceil(12 * stddev), math.ceil(12 * stddev) + 1)
    weights = np.exp(-(support**2) / (2 * stddev**2))
    return support, weights / weights.sum()


@pytest.mark.parametrize("probability", [1e-3, 0.05, 0.5, 0.9, 0.999])
def test_coins_have_the_rate_they_are_asked_for(randomness: Randomness, probability: float) -> None:
    coins = randomness.bernoulli(probability, SIZE)
    assert coins.shape == (SIZE,)
    assert coins.dtype == bool
    deviation = (coins.mean() - probability) / math.sqrt(probability * (1 - probability) / SIZE)
    assert abs(deviation) < SIGMAS


def test_certain_and_impossible_coins(randomness: Randomness) -> None:
    assert randomness.bernoulli(1.0, 1000).all()
    assert not randomness.bernoulli(0.0, 1000).any()
    assert not randomness.bernoulli(1e-300, 1000).any()


@pytest.mark.parametrize("lag", [1, 2, 64])
def test_coins_are_independent_of_their_neighbours(randomness: Randomness, lag: int) -> None:
    coins = randomness.bernoulli(0.5, SIZE) - 0.5
    correlation = 4 * np.mean(coins[:-lag] * coins[lag:])
    assert abs(correlation) * math.sqrt(SIZE - lag) < SIGMAS


def test_normals_follow_the_normal_distribution(randomness: Randomness) -> None:
    draws = randomness.normal(SIZE)
    assert draws.shape == (SIZE,)
    assert draws.dtype == np.float32
    draws = draws.astype(np.float64)
    # Kolmogorov-Smirnov: P(sqrt(n) D > 3) = 2 exp(-18) = 3e-8.
    assert kstest(draws, "norm").statistic * math.sqrt(SIZE) < 3
    # E[x^p] and Var[x^p] = E[x^2p] - E[x^p]^2 of a standard normal.
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(draws**power) - mean) < SIGMAS * math.sqrt(variance / SIZE)


def test_normals_have_tails(randomness: Randomness) -> None:
    draws = np.abs(randomness.normal(4 * SIZE))
    # 800,000 draws: 50.7 beyond 4 sigma and 0.46 beyond 5 are expected, Poisson.
    assert 10 < np.sum(draws > 4) < 105
    assert np.sum(draws > 5) < 15


@pytest.mark.parametrize("lag", [1, 2, BLOCK, 2 * BLOCK])
def test_normals_are_independent(randomness: Randomness, lag: int) -> None:
    # Pairs of Box and Muller lie a block apart.
    draws = randomness.normal(SIZE).astype(np.float64)
    for power in (1, 2):
        values = draws**power - (power == 2)
        bound = SIGMAS * (2.0 if power == 2 else 1.0) / math.sqrt(SIZE - lag)
        assert abs(np.mean(values[:-lag] * values[lag:])) < bound


@pytest.mark.parametrize("stddev", [0.3, 0.5, 1.0, 5.0, 50.0])
def test_discrete_gaussian_has_its_mean_and_variance(randomness: Randomness, stddev: float) -> None:
    size = 20_000
    draws = randomness.discrete_gaussian(stddev, size)
    assert draws.shape == (size,)
    assert draws.dtype == np.int64
    support, chance = masses(stddev)
    variance = float(chance @ support**2)
    spread = math.sqrt(float(chance @ support.astype(float) ** 4) - variance**2)
    assert abs(draws.mean()) < SIGMAS * math.sqrt(variance / size)
    # The square is skewed when it is nearly always 0: one more sigma.
    assert abs(np.mean(draws**2) - variance) < (SIGMAS + 1) * spread / math.sqrt(size)


@pytest.mark.parametrize("stddev", [0.5, 3.0])
def test_discrete_gaussian_has_its_masses(randomness: Randomness, stddev: float) -> None:
    size = 20_000
    support, chance = masses(stddev)
    counted = chance * size >= 10
    draws = randomness.discrete_gaussian(stddev, size)
    found = np.array([np.sum(draws == value) for value in support[counted]])
    found = np.append(found, size - found.sum())
    expected = np.append(chance[counted], chance[~counted].sum()) * size
    statistic = float(np.sum((found - expected) ** 2 / np.maximum(expected, 1.0)))
    assert statistic < chi2.isf(1e-8, len(found) - 1)


def test_nothing_can_be_asked_for(randomness: Randomness) -> None:
    assert randomness.bernoulli(0.5, 0).shape == (0,)
    assert randomness.normal(0).shape == (0,)
    assert randomness.discrete_gaussian(2.0, 0).shape == (0,)


@pytest.mark.parametrize("size", [1, 3])
def test_odd_sizes_are_filled(randomness: Randomness, size: int) -> None:
    assert randomness.normal(size).shape == (size,)
    assert randomness.discrete_gaussian(2.0, size).shape == (size,)


@pytest.mark.parametrize("stddev", [0.0, -1.0, math.nan, math.inf])
def test_noise_without_a_positive_size_is_refused(randomness: Randomness, stddev: float) -> None:
    with pytest.raises(PrivacyError, match="noise_stddev"):
        randomness.discrete_gaussian(stddev, 3)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_coin_needs_a_probability(randomness: Randomness, probability: float) -> None:
    with pytest.raises(PrivacyError, match="probability"):
        randomness.bernoulli(probability, 3)


def test_successive_draws_differ(randomness: Randomness) -> None:
    assert not np.array_equal(randomness.normal(8), randomness.normal(8))
    assert not np.array_equal(randomness.bernoulli(0.5, 64), randomness.bernoulli(0.5, 64))
    assert not np.array_equal(randomness.discrete_gaussian(1e6, 8), randomness.discrete_gaussian(1e6, 8))


def test_a_large_draw_is_as_good_as_a_small_one(randomness: Randomness) -> None:
    # Made of many blocks, the last of which is cut short.
    half = 5 * BLOCK + 3
    draws = randomness.normal(2 * half + 1, 3.0).astype(np.float64) / 3.0
    assert kstest(draws, "norm").statistic * math.sqrt(draws.size) < 3
    for first, second in ((draws[:half], draws[half : 2 * half]), (draws[:-1], draws[1:])):
        assert abs(np.mean(first * second)) * math.sqrt(first.size) < SIGMAS


@pytest.mark.parametrize("stddev", [0.5, 40.0])
def test_normals_have_the_deviation_they_are_asked_for(randomness: Randomness, stddev: float) -> None:
    draws = randomness.normal(SIZE, stddev).astype(np.float64)
    assert abs(draws.var() / stddev**2 - 1) < SIGMAS * math.sqrt(2 / SIZE)
