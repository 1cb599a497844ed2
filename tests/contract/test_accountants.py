"""Epsilon by two other accountants, on 200 random plans: one bounds it from above, one says what it is.

(a) dp-accounting's Renyi accountant, an upper bound that shares no code with privacy loss distributions.
(b) An accountant for tests alone: it knows no grid of losses, but integrates the moment generating function
of the privacy loss along a vertical line in the complex plane (the identity behind Alghamdi et al. 2023, "The
saddle-point method in differential privacy"). With K(z) = log E[exp(z L)], the loss L drawn under P,

    delta(epsilon) = 1 / (2 pi i) * integral over Re z = c > 0 of exp(K(z) - z epsilon) / (z (z + 1)) dz

which is the inverse Laplace transform of the hockey-stick (1 - exp(epsilon - L))+ and holds for every c. The
integrand is analytic, so the trapezoidal rule converges exponentially.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

from fedpipe.privacy import DiscreteGaussianDpEvent, DpSgd, NoisyHistograms, PrivacyPlan, Query
from fedpipe.privacy.accounting import epsilon_at
from fedpipe.privacy.plan import Split

NUM_PLANS = 200
# A bound holds on any grid of losses; the finest, which runs use, takes a second: only some plans get it.
COARSE, FINE_EVERY = 1e-3, 10
Complex = NDArray[np.complex128]
Transform = Callable[[Complex, bool], Complex]


# --- random plans --------------------------------------------------------------------------------


def random_plans(number: int, seed: int = 20260101) -> Iterator[PrivacyPlan]:
    """Plans as calibration could make them, from strict to lax, over most of what settings allow."""
    draw = random.Random(seed)
    for _ in range(number):
        keyed = draw.random() < 0.7
        queries = {
            "labels": _counts(draw, "statistics", ("train", "eval"), 1),
            "columns": _counts(draw, "statistics", ("train", "eval"), draw.randint(1, 20)),
            "features": _counts(draw, "preprocess", ("train",), draw.randint(1, 20)),
            "training": Query(step="train", splits=("train",), mechanism=_dp_sgd(draw)),
            "evaluation": _counts(draw, "analyze", ("eval",), draw.randint(1, 3)),
        }
        if draw.random() < 0.4:
            queries["slices"] = _counts(draw, "analyze", ("eval",), draw.randint(1, 4))
        if not keyed:
            queries = {name: each.model_copy(update={"splits": ("all",)}) for name, each in queries.items()}
        yield PrivacyPlan(
            private=True,
            epsilon=1.0,
            delta=draw.choice([1e-4, 1e-5, 1e-6, 1e-8]),
            keyed=keyed,
            randomness="secure",
            queries=queries,
        )


def _counts(draw: random.Random, step: str, splits: tuple[Split, ...], number: int) -> Query:
    noise = math.sqrt(number) * math.exp(draw.uniform(math.log(1.5), math.log(60)))
    return Query(
        step=step, splits=splits, mechanism=NoisyHistograms(noise_stddev=noise, num_histograms=number)
    )


def _dp_sgd(draw: random.Random) -> DpSgd:
    return DpSgd(
        sampling_probability=math.exp(draw.uniform(math.log(0.005), math.log(0.6))),
        clipping_norm=draw.uniform(0.1, 5),
        noise_multiplier=math.exp(draw.uniform(math.log(0.7), math.log(6))),
        num_rounds=draw.randint(1, 120),
        local_steps=draw.randint(1, 3),
    )


# --- the accountant along a line -----------------------------------------------------------------


@dataclass(frozen=True)
class Simple:
    """A mechanism and how often it is used. `kind` is poisson or discrete; an unsampled normal has q = 1."""

    kind: str
    noise: float
    probability: float
    count: int


def flatten(event: DpEvent, count: int = 1) -> Iterator[Simple]:
    if isinstance(event, dp_event.SelfComposedDpEvent):
        yield from flatten(event.event, count * event.count)
    elif isinstance(event, DiscreteGaussianDpEvent):
        yield Simple("discrete", event.noise_stddev, 1.0, count)
    elif isinstance(event, dp_event.GaussianDpEvent):
        yield Simple("poisson", event.noise_multiplier, 1.0, count)
    else:
        yield Simple("poisson", event.event.noise_multiplier, event.sampling_probability, count)


def log_moment(part: Simple, z: Complex, *, removing: bool) -> Complex:
    """Returns K(z) of all uses of `part`; Re z is the same for all z."""
    c = float(z[0].real)
    reach = 12 * part.noise
    if part.kind == "discrete":
        x = np.arange(-math.ceil(c + 1 + reach), math.ceil(reach) + 1, dtype=np.float64)
        weights = -0.5 * (x / part.noise) ** 2
        weights -= _log_sum(weights[np.abs(x) <= reach])
        return part.count * _log_mean(weights, (0.5 - x) / part.noise**2, z)
    # Loss log r(x) when the unit is removed, -log r(x) when it is added; x is normal where it is absent.
    x = np.linspace(-reach - c - 1, reach + c + 2, 2001)
    weights = norm.logpdf(x, scale=part.noise) + math.log(x[1] - x[0])
    ratio = np.logaddexp(_log1m(part.probability), math.log(part.probability) + (x - 0.5) / part.noise**2)
    power = z + 1 if removing else z
    return part.count * _log_mean(weights, ratio if removing else -ratio, power)


def _log1m(probability: float) -> float:
    return math.log1p(-probability) if probability < 1 else -math.inf


def _log_sum(logs: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(logs))


def _log_mean(weights: NDArray[np.float64], losses: NDArray[np.float64], z: Complex) -> Complex:
    real = weights + float(z[0].real) * losses
    top = real.max()
    near = real > top - 42
    magnitudes, angles = np.exp(real[near] - top), np.outer(z.imag, losses[near])
    return top + np.log(np.exp(1j * angles) @ magnitudes)


def reference_delta(
    parts: list[Simple], c: float, around: float, *, removing: bool
) -> Callable[[float], float]:
    """Returns delta as a function of epsilon, good near `around`, integrated along Re z = c."""

    def log_moments(z: Complex) -> Complex:
        return np.sum([log_moment(part, z, removing=removing) for part in parts], axis=0)

    def real(at: float) -> float:
        return float(log_moments(np.array([at + 0j]))[0].real)

    step = 1e-3 * max(c, 0.1)
    variance = max((real(c + step) - 2 * real(c) + real(c - step)) / step**2, 1e-12)
    # The rule's error is that of losses one period away, on either side.
    period = max(12 * math.sqrt(variance), 60 / c) + 2 * abs(around)
    spacing = 2 * math.pi / period
    values: list[Complex] = []
    nodes: list[Complex] = []
    for start in range(0, 4096, 64):
        z = c + 1j * spacing * np.arange(start, start + 64)
        found = np.exp(log_moments(z) - real(c)) / (z * (z + 1))
        nodes.append(z)
        values.append(found)
        if np.abs(found[-16:]).max() < 1e-13 * abs(values[0][0]):
            break
    z, weighed = np.concatenate(nodes), np.concatenate(values)
    weighed[0] /= 2

    def delta(at: float) -> float:
        integral = float(np.sum((weighed * np.exp(-1j * z.imag * at)).real)) * spacing / math.pi
        return math.exp(min(real(c) - c * at, 600.0)) * integral

    return delta


def reference_epsilon(events: Iterable[DpEvent], delta: float, near: float) -> float:
    """Returns epsilon at `delta`, the larger of adding and removing; `near` only says where to look."""
    parts = list(_joined(events))
    return max(_one_sided(parts, delta, near, removing=removing) for removing in (True, False))


def _joined(events: Iterable[DpEvent]) -> Iterator[Simple]:
    counts: dict[tuple[str, float, float], int] = {}
    for part in (each for event in events for each in flatten(event)):
        key = (part.kind, part.noise, part.probability)
        counts[key] = counts.get(key, 0) + part.count
    for (kind, noise, probability), count in counts.items():
        yield Simple(kind, noise, probability, count)


def _one_sided(parts: list[Simple], delta: float, near: float, *, removing: bool) -> float:
    def exponent(log_c: float) -> float:
        c = math.exp(log_c)
        z = np.array([c + 0j])
        moment = sum(float(log_moment(part, z, removing=removing)[0].real) for part in parts)
        return moment - c * near - math.log(c * (c + 1))

    c = math.exp(minimize_scalar(exponent, bounds=(-3, 7), method="bounded").x)
    found = reference_delta(parts, c, near, removing=removing)
    low, high = 0.97 * near, 1.05 * near + 1e-3
    if found(low) <= delta:
        return low  # the other direction costs more, or `near` is too high by more than we allow
    return float(brentq(lambda at: found(at) - delta, low, high, xtol=1e-10))


def test_the_reference_is_exact_where_a_formula_is_known() -> None:
    """Balle and Wang 2018 (arXiv:1805.06530), Theorem 8: n normals of deviation s are one of s / sqrt(n)."""
    for noise, count in ((1.0, 1), (5.0, 30), (40.0, 3)):
        mu = math.sqrt(count) / noise

        def exact(at: float, mu: float = mu) -> float:
            return float(norm.cdf(mu / 2 - at / mu) - math.exp(at + norm.logcdf(-mu / 2 - at / mu)))

        known = brentq(lambda at: exact(at) - 1e-5, 0, 50, xtol=1e-12)
        event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise), count)
        assert reference_epsilon([event], 1e-5, near=1.01 * known) == pytest.approx(known, rel=1e-7)


# --- the comparison ------------------------------------------------------------------------------


def renyi_epsilon(events: Iterable[DpEvent], delta: float) -> float:
    """By dp-accounting; the discrete Gaussian's divergences are at most those of the normal distribution."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    accountant = RdpAccountant(orders=[*range(2, 65), 96, 128, 256])
    for part in _joined(events):
        event: DpEvent = dp_event.GaussianDpEvent(part.noise)
        if part.probability < 1:
            event = dp_event.PoissonSampledDpEvent(part.probability, event)
        accountant.compose(event, part.count)
    return float(accountant.get_epsilon(delta))


@dataclass(frozen=True)
class Compared:
    """A block of a plan, with our epsilon and those of the two others."""

    plan: PrivacyPlan
    events: list[DpEvent]
    ours: float
    reference: float
    renyi: float


@lru_cache(maxsize=1)
def compared() -> list[Compared]:
    """Every plan, at the block that pays most."""
    found = []
    for number, plan in enumerate(random_plans(NUM_PLANS)):
        ours, split = max((epsilon_at(plan.events_of(s), plan.delta, COARSE), s) for s in plan.splits)
        events = plan.events_of(split)
        reference = reference_epsilon(events, plan.delta, near=ours)
        renyi = renyi_epsilon(events, plan.delta)
        if number % FINE_EVERY == 0:
            ours = plan.total_epsilon()
        found.append(Compared(plan, events, ours, reference, renyi))
    return found


def test_the_plans_are_of_many_kinds() -> None:
    epsilons = [each.ours for each in compared()]
    assert len(epsilons) == NUM_PLANS
    assert min(epsilons) < 0.5
    assert max(epsilons) > 8
    assert {each.plan.keyed for each in compared()} == {True, False}


def is_right(ours: float, reference: float) -> bool:
    """Whether `ours` is not below the true epsilon, and no more than one per cent above."""
    return reference * (1 - 1e-6) - 1e-7 <= ours <= reference * 1.01


def test_epsilon_is_never_below_the_true_one_and_within_one_per_cent() -> None:
    for each in compared():
        assert is_right(each.ours, each.reference), each.plan


def test_epsilon_is_never_above_renyi_accounting() -> None:
    for each in compared():
        assert each.ours <= each.renyi + 1e-3, each.plan


# --- planted bugs --------------------------------------------------------------------------------


def forget_an_event(events: list[DpEvent]) -> list[DpEvent]:
    return events[1:]


def forget_the_last_use(events: list[DpEvent]) -> list[DpEvent]:
    return [dp_event.SelfComposedDpEvent(each.event, max(each.count - 1, 1)) for each in events]


def halve_the_sampling(events: list[DpEvent]) -> list[DpEvent]:
    def halved(part: Simple) -> DpEvent:
        if part.kind == "discrete":
            return DiscreteGaussianDpEvent(part.noise)
        return dp_event.PoissonSampledDpEvent(part.probability / 2, dp_event.GaussianDpEvent(part.noise))

    return [dp_event.SelfComposedDpEvent(halved(part), part.count) for part in _joined(events)]


def take_counts_for_one(events: list[DpEvent]) -> list[DpEvent]:
    """As if a release of many histograms cost as much as one of a single histogram."""
    return [dp_event.SelfComposedDpEvent(each.event.event, each.count) for each in events]


@pytest.mark.parametrize(
    "bug", [forget_an_event, forget_the_last_use, halve_the_sampling, take_counts_for_one]
)
def test_bugs_in_what_is_charged_are_seen(bug: Callable[[list[DpEvent]], list[DpEvent]]) -> None:
    trained = [each for each in compared() if each.plan.queries["training"].events in each.events][:8]
    wrong = [epsilon_at(bug(each.events), each.plan.delta, COARSE) for each in trained]
    assert not all(is_right(ours, each.reference) for ours, each in zip(wrong, trained, strict=True))
