"""From a total (epsilon, delta) to the noise of every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from dp_accounting.dp_event import DpEvent
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import brentq
from scipy.stats import norm

from fedpipe.errors import PrivacyError
from fedpipe.privacy.accounting import (
    COARSE_INTERVALS,
    MIN_DELTA,
    VALUE_DISCRETIZATION_INTERVAL,
    epsilon,
    epsilon_at,
)
from fedpipe.privacy.mechanisms import DpSgd, NoisyHistograms
from fedpipe.privacy.plan import PrivacyPlan, Query, Split, planned_events
from fedpipe.privacy.randomness import Kind
from fedpipe.privacy.units import UserUnit

MAX_EPSILON = 1000.0
MIN_NOISE = 0.05
MAX_NOISE = 1e7
TOLERANCE = 5e-4  # of the noise's logarithm
USERS_SHARE = 0.1  # of what label counts cost: each user counts once, so little noise is needed


class Shares(BaseModel):
    """How a record's budget is divided; training gets what is left.

    A share is a part of the squared Gaussian parameter mu^2 of (epsilon, delta) (Dong, Roth, Su
    2019, arXiv:1905.02383), which is what adds up over releases. `analyze` applies only when
    both splits are one block; otherwise evaluation has its records' whole remaining budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statistics: float = Field(default=0.06, gt=0, lt=1, description="Counts of labels and column health.")
    preprocess: float = Field(default=0.06, gt=0, lt=1, description="Counts of values.")
    analyze: float = Field(
        default=0.10, gt=0, lt=1, description="Evaluation, where it shares its records' block."
    )
    slices: float = Field(
        default=0.3, gt=0, lt=1, description="Part of the evaluation's share for analyze.slices, if any."
    )

    def check(self) -> None:
        """Raises PrivacyError when nothing is left for training."""
        total = self.statistics + self.preprocess + self.analyze
        if total >= 1:
            raise PrivacyError(
                f"Expected privacy.shares to leave a part for training, found a sum of {total:g}: "
                "lower them below 1."
            )


class Demand(BaseModel):
    """What a run wants to ask, before noise: all public."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_histograms: int = Field(default=1, ge=1)
    column_histograms: int = Field(ge=1)
    feature_histograms: int = Field(ge=0)
    score_histograms: int = Field(ge=1)
    slice_histograms: int = Field(default=0, ge=0)
    sampling_probability: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0, allow_inf_nan=False)
    num_rounds: int = Field(ge=1)
    local_steps: int = Field(ge=1)
    keyed: bool
    user: UserUnit | None = None

    @property
    def max_records(self) -> int:
        """How many records of a unit a release reads at most."""
        return self.user.max_records if self.user else 1


def calibrate(
    demand: Demand, *, epsilon_target: float, delta: float, shares: Shares, randomness: Kind
) -> PrivacyPlan:
    """Returns the plan with the least noise whose total cost stays within (epsilon_target, delta).

    Raises:
      PrivacyError: if the target is outside (0, 1000] x [1e-10, 1), the shares leave nothing for training, or
        no noise can meet the target.
    """
    if not (0 < epsilon_target <= MAX_EPSILON and MIN_DELTA <= delta < 1):
        raise PrivacyError(
            f"Expected 0 < epsilon <= {MAX_EPSILON:g} and {MIN_DELTA:g} <= delta < 1, "
            f"found epsilon {epsilon_target:g} and delta {delta:g}."
        )
    shares.check()
    mu_squared = gaussian_mu(epsilon_target, delta) ** 2
    both: tuple[Split, ...] = ("train", "eval") if demand.keyed else ("all",)
    train, held_out = both[:1], both[-1:]
    queries = _count_queries(demand, mu_squared, shares, both, train)
    if not demand.keyed:
        queries |= _evaluation_queries(demand, held_out, shares, shares.analyze * mu_squared)
    spent = [query.events for query in queries.values() if query.splits[0] == train[0]]
    queries["training"] = Query(
        step="train", splits=train, mechanism=_calibrated_training(demand, spent, epsilon_target, delta)
    )
    if demand.keyed:
        queries |= _calibrated_evaluation(demand, queries, held_out, shares, epsilon_target, delta)
    return PrivacyPlan(
        private=True,
        unit="user" if demand.user else "record",
        user=demand.user,
        epsilon=epsilon_target,
        delta=delta,
        keyed=demand.keyed,
        randomness=randomness,
        queries=queries,
    )


def gaussian_mu(epsilon_target: float, delta: float) -> float:
    """Returns the mu of the Gaussian mechanism that costs exactly (epsilon_target, delta).

    Dong, Roth, Su 2019 (arXiv:1905.02383), Corollary 1.
    """

    def excess(mu: float) -> float:
        upper = norm.cdf(-epsilon_target / mu + mu / 2)
        lower = math.exp(epsilon_target + norm.logcdf(-epsilon_target / mu - mu / 2))
        return float(upper - lower - delta)

    return float(brentq(excess, 1e-6, 100.0))


def _count_queries(
    demand: Demand, mu_squared: float, shares: Shares, both: tuple[Split, ...], train: tuple[Split, ...]
) -> dict[str, Query]:
    # Labels weigh as much as all columns together: they also give the sizes that sums are divided by.
    half, k = shares.statistics * mu_squared / 2, demand.max_records
    of_users = USERS_SHARE * half if demand.user else 0.0
    queries = {
        "labels": _query("statistics", both, demand.label_histograms, half - of_users, k),
        "columns": _query("statistics", both, demand.column_histograms, half, k),
    }
    if demand.user:
        queries["users"] = _query("statistics", both, 1, of_users, 1)
    if demand.feature_histograms:
        queries["features"] = _query(
            "preprocess", train, demand.feature_histograms, shares.preprocess * mu_squared, k
        )
    return queries


def _query(
    step: str, splits: tuple[Split, ...], num_histograms: int, mu_squared: float, max_records: int
) -> Query:
    mechanism = NoisyHistograms(
        noise_stddev=max_records * math.sqrt(num_histograms / mu_squared),
        num_histograms=num_histograms,
        max_records=max_records,
    )
    return Query(step=step, splits=splits, mechanism=mechanism)


def _calibrated_training(demand: Demand, spent: list[DpEvent], epsilon_target: float, delta: float) -> DpSgd:
    def mechanism(noise_multiplier: float) -> DpSgd:
        return DpSgd(
            sampling_probability=demand.sampling_probability,
            clipping_norm=demand.clipping_norm,
            noise_multiplier=noise_multiplier,
            num_rounds=demand.num_rounds,
            local_steps=demand.local_steps,
        )

    def events(noise_multiplier: float) -> list[DpEvent]:
        return [*spent, planned_events(mechanism(noise_multiplier))]

    guess = _clt_noise(demand, epsilon_target, delta)
    return mechanism(_least_noise(events, epsilon_target, delta, guess=guess))


def _clt_noise(demand: Demand, epsilon_target: float, delta: float) -> float:
    """Returns a first guess: mu^2 = steps q^2 (exp(1/z^2) - 1) (Dong, Roth, Su 2019, Corollary 4)."""
    steps = demand.num_rounds * demand.local_steps
    per_step = gaussian_mu(epsilon_target, delta) ** 2 / (steps * demand.sampling_probability**2)
    return 1 / math.sqrt(math.log1p(per_step))


def _calibrated_evaluation(
    demand: Demand,
    queries: dict[str, Query],
    splits: tuple[Split, ...],
    shares: Shares,
    epsilon_target: float,
    delta: float,
) -> dict[str, Query]:
    spent = [query.events for query in queries.values() if splits[0] in query.splits]

    def made(mu: float) -> dict[str, Query]:
        return _evaluation_queries(demand, splits, shares, mu**2)

    def events(inverse_mu: float) -> list[DpEvent]:
        return [*spent, *(query.events for query in made(1 / inverse_mu).values())]

    remaining = (1 - shares.statistics) * gaussian_mu(epsilon_target, delta) ** 2
    inverse_mu = _least_noise(events, epsilon_target, delta, guess=1 / math.sqrt(remaining))
    return made(1 / inverse_mu)


def _evaluation_queries(
    demand: Demand, splits: tuple[Split, ...], shares: Shares, mu_squared: float
) -> dict[str, Query]:
    """Returns the evaluation's queries, which together cost about `mu_squared`."""
    part, k = shares.slices if demand.slice_histograms else 0.0, demand.max_records
    queries = {"evaluation": _query("analyze", splits, demand.score_histograms, (1 - part) * mu_squared, k)}
    if demand.slice_histograms:
        queries["slices"] = _query("analyze", splits, demand.slice_histograms, part * mu_squared, k)
    return queries


def _least_noise(
    events: Callable[[float], list[DpEvent]], target: float, delta: float, *, guess: float
) -> float:
    """Returns nearly the smallest noise, found from `guess`, whose `events` cost at most `target`.

    The search uses coarsely rounded losses, which are bounds as well; the result is checked with fine ones.
    """
    interval = min(max(target / 4000, VALUE_DISCRETIZATION_INTERVAL), max(COARSE_INTERVALS))

    @cache
    def excess(log_noise: float) -> float:
        ratio = epsilon_at(events(math.exp(log_noise)), delta, interval) / target
        return math.log(min(max(ratio, 1e-3), 1e3))

    low, high = _bracket(excess, math.log(max(guess, MIN_NOISE)), target)
    log_noise = brentq(excess, low, high, xtol=TOLERANCE) + TOLERANCE if excess(low) > 0 else low
    while epsilon(events(math.exp(log_noise)), delta) > target:
        log_noise = _larger(log_noise, TOLERANCE, target)
    return math.exp(log_noise)


def _bracket(excess: Callable[[float], float], guess: float, target: float) -> tuple[float, float]:
    """Returns the logarithms of a noise that costs too much, or of the least, and of one that does not."""
    low = high = guess
    while excess(high) > 0:
        low, high = high, _larger(high, 0.2, target)
    while low > math.log(MIN_NOISE) and excess(low) <= 0:
        low, high = max(low - 0.2, math.log(MIN_NOISE)), low
    return low, high


def _larger(log_noise: float, step: float, target: float) -> float:
    if log_noise > math.log(MAX_NOISE):
        raise PrivacyError(
            f"Expected epsilon {target:g} to suffice for some noise, found that even noise "
            f"{math.exp(log_noise):.0f} costs more: raise privacy.epsilon, or lower privacy.shares or "
            "training.num_rounds."
        )
    return log_noise + step
