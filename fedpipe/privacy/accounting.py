"""Epsilon from events: exact composition (PLD) for a run, Renyi for the ledger's filter.

Everything here is for the add-or-remove-one relation. An event that has no rule raises;
nothing is ever counted as free by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from dp_accounting.pld import privacy_loss_distribution as pld

from fedpipe.errors import PrivacyError
from fedpipe.privacy.events import DiscreteGaussianDpEvent

VALUE_DISCRETIZATION_INTERVAL = 1e-4
ORDERS = tuple(range(2, 65))


def accountant_name() -> str:
    """Returns what recomputes our epsilons, with its version."""
    return f"PLD, pessimistic, interval {VALUE_DISCRETIZATION_INTERVAL:g} (dp-accounting {version('dp-accounting')})"


def epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """Returns an upper bound on epsilon, at `delta`, of composing all `events`.

    Privacy loss distributions (Koskela, Jälkö, Honkela 2020, arXiv:1906.03049) rounded
    pessimistically, as dp-accounting computes them; add-or-remove-one.

    Raises:
      PrivacyError: for an event without a rule, or delta outside (0, 1).

    >>> round(epsilon([dp_event.GaussianDpEvent(1.0)], 1e-5), 2)
    4.38
    """
    if not 0 < delta < 1:
        raise PrivacyError(f"Expected 0 < delta < 1, found {delta}.")
    total = pld.identity(value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL)
    for event in events:
        total = total.compose(_loss_distribution(event))
    return float(total.get_epsilon_for_delta(delta))


def _loss_distribution(event: DpEvent, count: int = 1) -> Any:
    match event:
        case dp_event.SelfComposedDpEvent():
            return _loss_distribution(event.event, count * event.count)
        case dp_event.ComposedDpEvent():
            parts = [_loss_distribution(inner, count) for inner in event.events]
            total = pld.identity(value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL)
            for part in parts:
                total = total.compose(part)
            return total
        case dp_event.GaussianDpEvent():
            return _gaussian(event.noise_multiplier / math.sqrt(count), 1.0)
        case dp_event.PoissonSampledDpEvent(event=dp_event.GaussianDpEvent() as inner):
            return _repeat(_gaussian(inner.noise_multiplier, event.sampling_probability), count)
        case DiscreteGaussianDpEvent():
            return _repeat(_discrete_gaussian(event.noise_stddev), count)
    raise PrivacyError(f"Expected an event that fedpipe can account for, found {type(event).__name__}.")


def _repeat(distribution: Any, count: int) -> Any:
    return distribution if count == 1 else distribution.self_compose(count)


@lru_cache(maxsize=64)
def _gaussian(noise_multiplier: float, sampling_probability: float) -> Any:
    return pld.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_probability,
        value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL,
    )


@lru_cache(maxsize=64)
def _discrete_gaussian(noise_stddev: float) -> Any:
    return pld.from_discrete_gaussian_mechanism(
        noise_stddev, sensitivity=1, value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL
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
    match event:
        case dp_event.SelfComposedDpEvent():
            return event.count * renyi_divergence(event.event, order)
        case dp_event.ComposedDpEvent():
            return sum(renyi_divergence(inner, order) for inner in event.events)
        case dp_event.GaussianDpEvent():
            return order / (2 * event.noise_multiplier**2)
        case DiscreteGaussianDpEvent():
            return order / (2 * event.noise_stddev**2)
        case dp_event.PoissonSampledDpEvent(event=dp_event.GaussianDpEvent() as inner):
            return _sampled_gaussian_divergence(event.sampling_probability, inner.noise_multiplier, order)
    raise PrivacyError(f"Expected an event that fedpipe can account for, found {type(event).__name__}.")


def _sampled_gaussian_divergence(probability: float, noise_multiplier: float, order: int) -> float:
    if probability == 1:
        return order / (2 * noise_multiplier**2)
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * math.log(probability)
        + (order - k) * math.log1p(-probability)
        + k * (k - 1) / (2 * noise_multiplier**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return (largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


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
