"""Epsilon from events: exact composition (PLD) for a run, Renyi for the ledger's filter.

Everything here is for the add-or-remove-one relation. An event that has no rule raises;
nothing is ever counted as free by default.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import privacy_loss_distribution as pld

from fedpipe.errors import PrivacyError
from fedpipe.privacy.discrete_gaussian import discrete_gaussian_losses
from fedpipe.privacy.events import DiscreteGaussianDpEvent, check_event

VALUE_DISCRETIZATION_INTERVAL = 1e-4
# Bounds hold at any interval: above these epsilons a coarser one agrees to four digits and is fast.
COARSE_INTERVALS = {1e-2: 64.0, 1e-3: 8.0}
# Convolution by FFT errs by about 1e-12 for this many releases: smaller deltas would be underestimated.
MIN_DELTA = 1e-10
MAX_COUNT = 10**6
# Below this noise, or beyond this mean loss, no epsilon is worth its computation: it is reported as infinite.
MIN_NOISE = 0.02
MAX_MEAN_LOSS = 1e4
# A node accounts for whatever plan it is shown. So many points of a distribution take some seconds.
MAX_POINTS = 1_000_000
TAIL = 10.0  # standard deviations: beyond, where a mass of exp(-50) is left, dp-accounting cuts Gaussians off
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 768, 1024)


def accountant_name() -> str:
    """Returns what recomputes our epsilons, with its version."""
    coarse = ", ".join(f"{size:g} above epsilon {above:g}" for size, above in COARSE_INTERVALS.items())
    return (
        f"PLD, pessimistic (connect the dots), interval {VALUE_DISCRETIZATION_INTERVAL:g} ({coarse}), "
        f"dp-accounting {version('dp-accounting')}"
    )


def epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """Returns an upper bound on epsilon, at `delta`, of composing all `events`.

    Privacy loss distributions (Koskela, Jälkö, Honkela 2020, arXiv:1906.03049) discretised
    pessimistically, as dp-accounting computes them; add-or-remove-one.

    Raises:
      PrivacyError: for an event without a rule, one that takes too long to account for, or delta outside
        [1e-10, 1).

    >>> round(epsilon([dp_event.GaussianDpEvent(1.0)], 1e-5), 2)
    4.38
    """
    events = list(events)
    for interval, above in COARSE_INTERVALS.items():
        bound = epsilon_at(events, delta, interval)
        if bound > above:
            return bound
    return epsilon_at(events, delta, VALUE_DISCRETIZATION_INTERVAL)


def epsilon_at(events: Iterable[DpEvent], delta: float, interval: float) -> float:
    """Returns `epsilon` with losses on a grid of `interval`: a bound at any, tighter at a smaller one."""
    if not MIN_DELTA <= delta < 1:
        raise PrivacyError(f"Expected {MIN_DELTA:g} <= delta < 1, found {delta}.")
    listed = tuple(events)
    for event in listed:
        check_event(event)
    if any(_is_hopeless(event, 1) for event in listed):
        return math.inf
    for event in listed:
        _check_points(event, interval)
    bound = _epsilon_of if _is_hashable(listed) else _epsilon_of.__wrapped__
    return float(bound(listed, delta, interval))


@lru_cache(maxsize=256)
def _epsilon_of(events: tuple[DpEvent, ...], delta: float, interval: float) -> float:
    # Events are immutable, and equal ones cost the same: a run asks for its plan's epsilon several times.
    total = pld.identity(value_discretization_interval=interval)
    for event in events:
        total = total.compose(_loss_distribution(event, 1, interval))
    return float(total.get_epsilon_for_delta(delta))


def _is_hashable(events: tuple[DpEvent, ...]) -> bool:
    try:
        hash(events)
    except TypeError:  # a composed event holds a list
        return False
    return True


def _is_hopeless(event: DpEvent, count: int) -> bool:
    match event:
        case dp_event.SelfComposedDpEvent():
            return _is_hopeless(event.event, count * event.count)
        case dp_event.ComposedDpEvent():
            return any(_is_hopeless(inner, count) for inner in event.events)
        case dp_event.PoissonSampledDpEvent():
            noise, samples = event.event.noise_multiplier, count * event.sampling_probability
        case dp_event.GaussianDpEvent():
            noise, samples = event.noise_multiplier, count
        case _:
            noise, samples = event.noise_stddev, count
    return bool(noise < MIN_NOISE or samples / (2 * noise * noise) > MAX_MEAN_LOSS)


def _check_points(event: DpEvent, interval: float) -> None:
    """Raises PrivacyError for sampled noise so small that its losses, hardly ever met, span a huge grid."""
    match event:
        case dp_event.SelfComposedDpEvent():
            _check_points(event.event, interval)
        case dp_event.ComposedDpEvent():
            for inner in event.events:
                _check_points(inner, interval)
        case dp_event.PoissonSampledDpEvent():
            noise = event.event.noise_multiplier
            points = (TAIL / noise + 1 / (2 * noise * noise)) / interval
            if points > MAX_POINTS:
                raise PrivacyError(
                    f"Expected losses on {MAX_POINTS:,} points at most, found {points:,.0f} for noise "
                    f"sampled at noise_multiplier={noise:g}: nobody can account for it in reasonable time; "
                    "raise it."
                )


def _loss_distribution(event: DpEvent, count: int, interval: float) -> Any:
    match event:
        case dp_event.SelfComposedDpEvent():
            return _loss_distribution(event.event, count * event.count, interval)
        case dp_event.ComposedDpEvent():
            total = pld.identity(value_discretization_interval=interval)
            for inner in event.events:
                total = total.compose(_loss_distribution(inner, count, interval))
            return total
        case dp_event.GaussianDpEvent():
            return _gaussian(event.noise_multiplier / math.sqrt(count), 1.0, interval)
        case dp_event.PoissonSampledDpEvent(event=dp_event.GaussianDpEvent() as inner):
            return _repeat(_gaussian(inner.noise_multiplier, event.sampling_probability, interval), count)
        case DiscreteGaussianDpEvent():
            return _repeat(discrete_gaussian_losses(event.noise_stddev, interval), count)
    raise PrivacyError(f"Expected an event that fedpipe can account for, found {type(event).__name__}.")


def _repeat(distribution: Any, count: int) -> Any:
    if count > MAX_COUNT:
        raise PrivacyError(f"Expected at most {MAX_COUNT:,} releases of an event, found {count:,}.")
    return distribution if count == 1 else distribution.self_compose(count)


@lru_cache(maxsize=16)
def _gaussian(noise_multiplier: float, sampling_probability: float, interval: float) -> Any:
    if sampling_probability > 1 - 1e-6:
        sampling_probability = 1.0  # dp-accounting fails just below 1; more sampling costs more
    return pld.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_probability,
        value_discretization_interval=interval,
    )


def renyi_divergence(event: DpEvent, order: int) -> float:
    """Returns an upper bound on the Renyi DP of `event` at an integer `order` of 2 or more.

    Gaussian: order / (2 z^2) (Mironov 2017, arXiv:1702.07476, Proposition 7). Discrete
    Gaussian with sensitivity 1: the same bound (Canonne, Kamath, Steinke 2020, Theorem 4).
    Poisson-sampled Gaussian: the binomial sum of Mironov, Talwar, Zhang 2019
    (arXiv:1908.10530, Section 3.3), which holds for adding and for removing.
    """
    if order < 2 or order != int(order):
        raise PrivacyError(f"Expected an integer Renyi order of 2 or more, found {order}.")
    check_event(event)
    return _divergence(event, order)


def _divergence(event: DpEvent, order: int) -> float:
    match event:
        case dp_event.SelfComposedDpEvent():
            return float(event.count * _divergence(event.event, order))
        case dp_event.ComposedDpEvent():
            return math.fsum(_divergence(inner, order) for inner in event.events)
        case dp_event.GaussianDpEvent():
            return _gaussian_divergence(event.noise_multiplier, order)
        case DiscreteGaussianDpEvent():
            return _gaussian_divergence(event.noise_stddev, order)
        case dp_event.PoissonSampledDpEvent(event=dp_event.GaussianDpEvent() as inner):
            return _sampled_gaussian_divergence(event.sampling_probability, inner.noise_multiplier, order)
    raise PrivacyError(f"Expected an event that fedpipe can account for, found {type(event).__name__}.")


def _gaussian_divergence(noise_multiplier: float, order: int) -> float:
    return max(order / 2 / noise_multiplier / noise_multiplier, sys.float_info.min)


@lru_cache(maxsize=4096)
def _sampled_gaussian_divergence(probability: float, noise_multiplier: float, order: int) -> float:
    if probability == 1:
        return _gaussian_divergence(noise_multiplier, order)
    # The binomial probabilities sum to 1, so the moment is 1 + sum of binomial * (exp(exponent) - 1): all
    # terms are positive, and a small divergence keeps its digits instead of rounding to zero or below.
    terms = []
    for k in range(2, order + 1):
        exponent = (k - 1) * _gaussian_divergence(noise_multiplier, k)
        binomial = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        chance = binomial + k * math.log(probability) + (order - k) * math.log1p(-probability)
        terms.append(chance + exponent + _log1mexp(exponent))
    largest = max(terms)
    if largest == math.inf:
        return math.inf
    log_excess = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return _log1pexp(log_excess) / (order - 1)


def _log1mexp(x: float) -> float:
    """Returns log(1 - exp(-x)) for x > 0."""
    return math.log(-math.expm1(-x))


def _log1pexp(x: float) -> float:
    """Returns log(1 + exp(x))."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def renyi_to_epsilon(divergence: float, order: int, delta: float) -> float:
    """Returns the epsilon that Renyi DP (`order`, `divergence`) implies at `delta`.

    Canonne, Kamath, Steinke 2020 (arXiv:2004.00010), Proposition 12.
    """
    return divergence - conversion_slack(order, delta)


def conversion_slack(order: int, delta: float) -> float:
    """Returns `divergence - epsilon` of the conversion at `order` and `delta` (often negative)."""
    return -math.log1p(-1 / order) + (math.log(delta) + math.log(order)) / (order - 1)


def renyi_budget(epsilon_budget: float, delta: float, order: int) -> float:
    """Returns the Renyi divergence at `order` that converts to (`epsilon_budget`, `delta`)."""
    return epsilon_budget + conversion_slack(order, delta)
