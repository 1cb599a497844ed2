from __future__ import annotations

import logging
import math
import warnings

import pytest
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from fedpipe.errors import PrivacyError
from fedpipe.privacy import DiscreteGaussianDpEvent, accountant_name, epsilon
from fedpipe.privacy.accounting import (
    MIN_DELTA,
    ORDERS,
    conversion_slack,
    epsilon_at,
    renyi_budget,
    renyi_divergence,
    renyi_to_epsilon,
)

DELTA = 1e-5
INTEGER_ORDERS = list(range(2, 65))


def gaussian(noise_multiplier: float) -> DpEvent:
    return dp_event.GaussianDpEvent(noise_multiplier)


def dp_sgd(probability: float, noise_multiplier: float, steps: int) -> DpEvent:
    step = dp_event.PoissonSampledDpEvent(probability, gaussian(noise_multiplier))
    return dp_event.SelfComposedDpEvent(step, steps)


def gaussian_delta(epsilon_value: float, mu: float) -> float:
    """Balle and Wang 2018 (arXiv:1805.06530), Theorem 8."""
    lower = math.exp(epsilon_value + norm.logcdf(-epsilon_value / mu - mu / 2))
    return float(norm.cdf(-epsilon_value / mu + mu / 2) - lower)


def gaussian_epsilon(mu: float, delta: float) -> float:
    if gaussian_delta(0, mu) <= delta:
        return 0.0
    return float(brentq(lambda value: gaussian_delta(value, mu) - delta, 0, mu * mu + 20 * mu))


def rdp_accountant(event: DpEvent) -> RdpAccountant:
    logging.getLogger("absl").setLevel(logging.ERROR)
    return RdpAccountant(orders=INTEGER_ORDERS).compose(event)


# --- epsilon by privacy loss distributions ---------------------------------------------------


def test_no_event_costs_nothing() -> None:
    assert epsilon([], DELTA) == 0


@pytest.mark.parametrize("noise", [0.8, 1.0, 3.730631634944469, 20.0, 300.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.01])
def test_gaussian_epsilon_is_just_above_the_exact_one(noise: float, delta: float) -> None:
    exact = gaussian_epsilon(1 / noise, delta)
    found = epsilon([gaussian(noise)], delta)
    assert exact - 1e-9 <= found <= exact * (1 + 1e-3) + 1e-6


def test_analytic_gaussian_of_the_literature() -> None:
    # Balle and Wang 2018: epsilon 1 at delta 1e-5 needs sigma 3.7306.
    assert epsilon([gaussian(3.730631634944469)], 1e-5) == pytest.approx(1.0, abs=1e-4)


def test_dp_sgd_of_the_measured_facts() -> None:
    assert epsilon([dp_sgd(0.1, 0.89, 60)], DELTA) == pytest.approx(7.004, abs=1e-3)


@pytest.mark.parametrize(
    ("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]
)
def test_dp_sgd_of_the_tensorflow_privacy_tutorials(noise: float, epochs: int, published: float) -> None:
    # Published by Renyi accounting, which is up to a quarter above exact composition.
    event = dp_sgd(256 / 60_000, noise, epochs * 60_000 // 256)
    assert 0.7 * published < epsilon([event], DELTA) < published


events = st.one_of(
    st.floats(2.0, 200).map(gaussian),
    st.builds(dp_sgd, st.floats(0.001, 0.5), st.floats(2.0, 20), st.integers(1, 60)),
)


@settings(max_examples=12, deadline=None)
@given(st.lists(events, min_size=1, max_size=2), st.sampled_from([1e-8, 1e-5, 1e-2]))
def test_epsilon_lies_between_the_reference_accountants(composed: list[DpEvent], delta: float) -> None:
    event = dp_event.ComposedDpEvent(composed)
    exact = PLDAccountant().compose(event).get_epsilon(delta)
    renyi = rdp_accountant(event).get_epsilon(delta)
    found = epsilon([event], delta)
    assert found <= renyi
    # Above epsilon 8 our grid is the coarser one.
    assert exact * (1 - 1e-6) <= found <= exact * (1 + 1e-3)


@pytest.mark.parametrize("noise", [1.0, 6.0])
def test_epsilon_agrees_with_dp_accounting_to_the_last_digits(noise: float) -> None:
    event = dp_event.ComposedDpEvent([dp_sgd(0.05, noise, 100), gaussian(8.0)])
    exact = PLDAccountant().compose(event).get_epsilon(DELTA)
    assert epsilon([event], DELTA) == pytest.approx(exact, rel=1e-9)


def test_order_and_nesting_of_events_change_nothing() -> None:
    a, b, c = dp_sgd(0.1, 2.0, 30), gaussian(5.0), DiscreteGaussianDpEvent(4.0)
    twice = dp_event.SelfComposedDpEvent(dp_event.ComposedDpEvent([a, b]), 2)
    flat = epsilon([a, b, c, a, b], DELTA)
    assert epsilon([c, twice], DELTA) == pytest.approx(flat, rel=1e-6)
    assert renyi_divergence(dp_event.ComposedDpEvent([c, twice]), 8) == pytest.approx(
        sum(renyi_divergence(event, 8) for event in (a, b, c, a, b)), rel=1e-12
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 0.9), st.floats(1.0, 10), st.integers(1, 100))
def test_more_rounds_more_sampling_or_less_noise_never_cost_less(
    probability: float, noise: float, steps: int
) -> None:
    def cost(event: DpEvent) -> float:
        return epsilon_at([event], DELTA, 1e-3)

    base = cost(dp_sgd(probability, noise, steps))
    assert cost(dp_sgd(probability, noise, steps + 10)) >= base - 1e-9
    assert cost(dp_sgd(probability, noise * 0.9, steps)) >= base - 1e-9
    assert cost(dp_sgd(min(1.0, probability * 1.1), noise, steps)) >= base - 1e-9


@pytest.mark.parametrize("event", [dp_sgd(0.2, 1.5, 60), DiscreteGaussianDpEvent(1.3)])
def test_a_coarser_grid_never_claims_a_smaller_epsilon(event: DpEvent) -> None:
    bounds = [epsilon_at([event], DELTA, interval) for interval in (1e-4, 1e-3, 1e-2)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < bounds[0] * 1.01


def test_epsilon_above_the_coarse_limits_is_a_tight_bound() -> None:
    for noise in (0.5, 0.2, 0.05):
        exact = gaussian_epsilon(1 / noise, DELTA)
        assert exact <= epsilon([gaussian(noise)], DELTA) < exact * 1.001


@pytest.mark.parametrize(
    "event",
    [
        gaussian(1e-3),
        DiscreteGaussianDpEvent(1e-3),
        dp_sgd(0.5, 1e-3, 10),
        dp_event.SelfComposedDpEvent(gaussian(0.05), 10_000),
    ],
)
def test_noise_too_small_for_any_guarantee_costs_infinity(event: DpEvent) -> None:
    assert epsilon([gaussian(10.0), event], DELTA) == math.inf


@pytest.mark.parametrize("noise", [1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("probability", [1e-9, 0.5, 1 - 1e-12, 1.0])
def test_huge_noise_is_no_problem(noise: float, probability: float) -> None:
    assert 0 <= epsilon([dp_sgd(probability, noise, 10)], DELTA) < 1e-2


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, MIN_DELTA / 2])
def test_delta_that_cannot_be_resolved_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([gaussian(1.0)], delta)


@pytest.mark.parametrize(
    "event", [dp_event.LaplaceDpEvent(1.0), dp_event.NonPrivateDpEvent(), dp_event.NoOpDpEvent()]
)
def test_an_event_without_a_rule_is_never_free(event: DpEvent) -> None:
    with pytest.raises(PrivacyError, match="Expected an event"):
        epsilon([event], DELTA)
    with pytest.raises(PrivacyError, match="Expected an event"):
        renyi_divergence(event, 2)


def test_more_releases_than_the_arithmetic_resolves_are_refused() -> None:
    with pytest.raises(PrivacyError, match="at most"):
        epsilon([dp_sgd(1e-6, 1e3, 10**7)], DELTA)


def test_accountant_name_holds_grid_and_version() -> None:
    assert "PLD" in accountant_name()
    assert "0.0001" in accountant_name()
    assert "dp-accounting 0." in accountant_name()


# --- Renyi divergence -----------------------------------------------------------------------


def test_renyi_divergence_of_unsampled_noise_by_hand() -> None:
    assert renyi_divergence(gaussian(2.0), 8) == 8 / (2 * 4)
    assert renyi_divergence(DiscreteGaussianDpEvent(0.5), 3) == 3 / (2 * 0.25)
    assert renyi_divergence(dp_event.SelfComposedDpEvent(gaussian(2.0), 5), 8) == 5.0


@pytest.mark.parametrize("probability", [1e-8, 0.01, 0.5])
def test_renyi_divergence_of_order_two_by_hand(probability: float) -> None:
    # E[(1 - q + q L)^2] with E[L] = 1 and E[L^2] = exp(1 / z^2).
    expected = math.log1p(probability**2 * math.expm1(1 / 1.5**2))
    assert renyi_divergence(dp_sgd(probability, 1.5, 1), 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", [2, 5, 11])
def test_renyi_divergence_of_sampled_noise_by_integration(order: int) -> None:
    q, z = 0.2, 1.1

    def power(x: float) -> float:
        ratio = 1 - q + q * math.exp((2 * x - 1) / (2 * z * z))
        return float(norm.pdf(x, scale=z)) * ratio**order

    moment = quad(power, -30, 40, limit=500, epsabs=0, epsrel=1e-12)[0]
    expected = math.log(moment) / (order - 1)
    assert renyi_divergence(dp_sgd(q, z, 1), order) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.3, 30), st.integers(1, 1000))
def test_renyi_divergence_agrees_with_dp_accounting(probability: float, noise: float, steps: int) -> None:
    event = dp_sgd(probability, noise, steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = rdp_accountant(event)._rdp
    found = [renyi_divergence(event, order) for order in INTEGER_ORDERS]
    assert found == pytest.approx(list(expected), rel=1e-6, abs=1e-9)


@settings(max_examples=60)
@given(st.floats(1e-12, 1.0), st.floats(0.05, 1e8), st.sampled_from(ORDERS))
def test_renyi_divergence_is_positive_and_at_most_that_without_sampling(
    probability: float, noise: float, order: int
) -> None:
    whole = renyi_divergence(gaussian(noise), order)
    assert 0 < renyi_divergence(dp_sgd(probability, noise, 1), order) <= whole * (1 + 1e-12)


@settings(max_examples=40)
@given(st.floats(1e-6, 1.0), st.floats(0.2, 100))
def test_renyi_divergence_grows_with_the_order(probability: float, noise: float) -> None:
    event = dp_sgd(probability, noise, 1)
    found = [renyi_divergence(event, order) for order in ORDERS]
    assert found == sorted(found)


@pytest.mark.parametrize("noise", [1e-200, 1e200])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_renyi_divergence_of_extreme_noise_is_never_zero_or_nan(noise: float, probability: float) -> None:
    found = renyi_divergence(dp_sgd(probability, noise, 1), 16)
    assert found > 0


@pytest.mark.parametrize("order", [1, 0, -2, 2.5])
def test_renyi_order_must_be_an_integer_of_two_or_more(order: int) -> None:
    with pytest.raises(PrivacyError, match="order"):
        renyi_divergence(gaussian(1.0), order)


# --- conversion -----------------------------------------------------------------------------


@given(st.floats(0, 1e3), st.sampled_from(ORDERS), st.floats(1e-10, 0.5))
def test_conversions_are_inverse_to_each_other(divergence: float, order: int, delta: float) -> None:
    converted = renyi_to_epsilon(divergence, order, delta)
    assert renyi_budget(converted, delta, order) == pytest.approx(divergence, rel=1e-12, abs=1e-12)
    assert divergence - converted == pytest.approx(conversion_slack(order, delta), abs=1e-9)


def test_conversion_by_hand() -> None:
    # Order 2: epsilon = tau + log(1/delta) + log(1/2) - log 2.
    assert renyi_to_epsilon(1.0, 2, 1e-5) == pytest.approx(1 + 5 * math.log(10) - 2 * math.log(2))


@settings(max_examples=60)
@given(st.floats(0.2, 50), st.sampled_from(ORDERS), st.floats(1e-10, 0.1))
def test_converted_epsilon_is_never_below_the_exact_one(noise: float, order: int, delta: float) -> None:
    converted = renyi_to_epsilon(renyi_divergence(gaussian(noise), order), order, delta)
    assert gaussian_delta(max(converted, 0.0), 1 / noise) <= delta * (1 + 1e-6)
