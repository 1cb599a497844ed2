from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy.optimize import brentq

from fedpipe.privacy import DiscreteGaussianDpEvent, epsilon
from fedpipe.privacy.accounting import epsilon_at
from fedpipe.privacy.discrete_gaussian import MAX_STDDEV, discrete_gaussian_losses

DELTA = 1e-5


def masses(noise_stddev: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    support = np.arange(-math.ceil(13 * noise_stddev) - 2, math.ceil(13 * noise_stddev) + 3)
    weights = np.exp(-(support**2) / (2 * noise_stddev**2))
    return support, weights / weights.sum()


def exact_delta(epsilon_value: float, noise_stddev: float, count: int) -> float:
    """The hockey-stick divergence of `count` counts, by brute force: no grid, no accountant.

    The loss of x_1, ..., x_k depends on their sum only: (k/2 - sum) / sigma^2.
    """
    support, chance = masses(noise_stddev)
    total = chance
    for _ in range(count - 1):
        total = np.convolve(total, chance)
    sums = np.arange(len(total)) + count * support[0]
    losses = (count / 2 - sums) / noise_stddev**2
    worse = losses > epsilon_value
    return float(np.sum(total[worse] * -np.expm1(epsilon_value - losses[worse])))


def exact_epsilon(noise_stddev: float, count: int) -> float:
    high = count / noise_stddev**2 * 20 + 50 * math.sqrt(count) / noise_stddev
    return float(
        brentq(lambda value: exact_delta(value, noise_stddev, count) - DELTA, 0, high, xtol=1e-10)
        if exact_delta(0.0, noise_stddev, count) > DELTA
        else 0.0
    )


def of(noise_stddev: float, count: int = 1) -> dp_event.DpEvent:
    return dp_event.SelfComposedDpEvent(DiscreteGaussianDpEvent(noise_stddev), count)


def test_three_values_by_hand() -> None:
    # With sigma 0.3 almost all noise is 0 or +-1. Removing a record moves every mass by one: the mass of -1
    # is all but impossible then, and 0 becomes as rare as +-1 was: delta = P(1) + P(0) - e^epsilon P(1).
    _, chance = masses(0.3)
    zero, one = chance[len(chance) // 2], chance[len(chance) // 2 + 1]
    assert zero == pytest.approx(1 - 2 * one, abs=1e-8)
    assert epsilon([of(0.3)], 0.01) == pytest.approx(math.log((one + zero - 0.01) / one), rel=1e-4)


@pytest.mark.parametrize("noise_stddev", [0.3, 0.5, 0.7, 1.0, 2.3, 10.0])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_epsilon_is_just_above_brute_force(noise_stddev: float, count: int) -> None:
    exact = exact_epsilon(noise_stddev, count)
    found = epsilon([of(noise_stddev, count)], DELTA)
    assert exact - 1e-9 <= found <= exact * (1 + 1e-4) + 1e-5


@pytest.mark.parametrize("noise_stddev", [0.2, 0.5, 1.0, 7.5, 300.0])
@pytest.mark.parametrize("count", [1, 10])
def test_losses_agree_with_dp_accounting(noise_stddev: float, count: int) -> None:
    theirs = pld.from_discrete_gaussian_mechanism(
        noise_stddev, value_discretization_interval=1e-3, use_connect_dots=True
    )
    expected = theirs.self_compose(count).get_epsilon_for_delta(DELTA)
    assert epsilon_at([of(noise_stddev, count)], DELTA, 1e-3) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("noise_stddev", [5.0, 50.0, 1000.0])
def test_large_noise_costs_what_continuous_noise_costs(noise_stddev: float) -> None:
    count = max(10, int(noise_stddev**2 / 4))
    continuous = epsilon([dp_event.GaussianDpEvent(noise_stddev / math.sqrt(count))], DELTA)
    assert epsilon([of(noise_stddev, count)], DELTA) == pytest.approx(continuous, rel=2e-3)


@pytest.mark.parametrize("noise_stddev", [0.05, 0.1, 1.0, 1e3, 1e4, 9e4, 1.1e5, 1e6, 1e7])
def test_any_noise_gives_a_finite_bound(noise_stddev: float) -> None:
    found = epsilon([of(noise_stddev)], DELTA)
    assert 0 <= found <= 0.51 / noise_stddev**2 + 10 / noise_stddev


def test_beyond_the_table_the_bound_does_not_fall_below_the_truth() -> None:
    # The exact value is that of continuous noise here, to far more digits than shown.
    count = 10**6
    continuous = epsilon([dp_event.GaussianDpEvent(MAX_STDDEV * 1.01 / math.sqrt(count))], DELTA)
    assert continuous <= epsilon([of(MAX_STDDEV * 1.01, count)], DELTA) < 100 * continuous


@pytest.mark.parametrize("noise_stddev", [0.4, 3.0, 2e3, 1e6])
@pytest.mark.parametrize("interval", [1e-4, 1e-2])
def test_discretised_losses_keep_both_masses(noise_stddev: float, interval: float) -> None:
    pmf = discrete_gaussian_losses(noise_stddev, interval)._pmf_remove.to_dense_pmf()
    losses = (np.arange(pmf.size) + pmf._lower_loss) * interval
    assert pmf._probs.min() >= 0
    assert pmf._probs.sum() == pytest.approx(1, abs=1e-12)
    finite = losses > -500
    assert np.sum(pmf._probs[finite] * np.exp(-losses[finite])) == pytest.approx(1, abs=1e-9)
