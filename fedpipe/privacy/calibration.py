"""From a total (epsilon, delta) to the noise of every step."""

from __future__ import annotations

import math
from collections.abc import Callable

from dp_accounting.dp_event import DpEvent
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import brentq
from scipy.stats import norm

from fedpipe.errors import PrivacyError
from fedpipe.privacy.accounting import epsilon
from fedpipe.privacy.mechanisms import DpSgd, NoisyHistograms
from fedpipe.privacy.plan import PrivacyPlan, Query, Split
from fedpipe.privacy.randomness import Kind

MIN_NOISE = 0.05
MAX_NOISE = 1e7


class Shares(BaseModel):
    """How a record's budget is divided; training gets what is left.

    A share is a part of the squared Gaussian parameter mu^2 of (epsilon, delta) (Dong, Roth, Su
    2019, arXiv:1905.02383), which is what adds up over releases. `analyze` applies only when
    both splits are one block; otherwise evaluation has its records' whole remaining budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validate_: float = Field(0.06, gt=0, lt=1, alias="validate")
    preprocess: float = Field(0.06, gt=0, lt=1)
    analyze: float = Field(0.10, gt=0, lt=1)

    def check(self) -> None:
        """Raises PrivacyError when nothing is left for training."""
        total = self.validate_ + self.preprocess + self.analyze
        if total >= 1:
            raise PrivacyError(
                f"Expected privacy.shares to leave a part for training, found a sum of {total:g}: lower them below 1."
            )


class Demand(BaseModel):
    """What a run wants to ask, before noise: all public."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_histograms: int = 1
    column_histograms: int
    feature_histograms: int
    score_histograms: int
    sampling_probability: float
    clipping_norm: float
    num_rounds: int
    local_steps: int
    keyed: bool


def calibrate(
    demand: Demand, *, epsilon_target: float, delta: float, shares: Shares, randomness: Kind
) -> PrivacyPlan:
    """Returns the plan with the least noise whose total cost stays within (epsilon_target, delta).

    Raises:
      PrivacyError: if the shares leave nothing for training, or no noise can meet the target.
    """
    shares.check()
    mu_squared = gaussian_mu(epsilon_target, delta) ** 2
    both: tuple[Split, ...] = ("train", "eval") if demand.keyed else ("all",)
    train, held_out = both[:1], both[-1:]
    queries = _count_queries(demand, mu_squared, shares, both, train)
    if not demand.keyed:
        queries["evaluation"] = _query(
            "analyze", held_out, demand.score_histograms, shares.analyze * mu_squared
        )
    spent = [query.events for query in queries.values() if query.splits[0] == train[0]]
    queries["training"] = Query(
        step="train", splits=train, mechanism=_calibrated_training(demand, spent, epsilon_target, delta)
    )
    if demand.keyed:
        queries["evaluation"] = _calibrated_evaluation(
            demand, queries, held_out, shares, epsilon_target, delta
        )
    return PrivacyPlan(
        private=True,
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
    half = shares.validate_ * mu_squared / 2
    queries = {
        "labels": _query("validate", both, demand.label_histograms, half),
        "columns": _query("validate", both, demand.column_histograms, half),
    }
    if demand.feature_histograms:
        queries["features"] = _query(
            "preprocess", train, demand.feature_histograms, shares.preprocess * mu_squared
        )
    return queries


def _query(step: str, splits: tuple[Split, ...], num_histograms: int, mu_squared: float) -> Query:
    stddev = math.sqrt(num_histograms / mu_squared)
    return Query(
        step=step, splits=splits, mechanism=NoisyHistograms(noise_stddev=stddev, num_histograms=num_histograms)
    )


def _calibrated_training(demand: Demand, spent: list[DpEvent], epsilon_target: float, delta: float) -> DpSgd:
    def mechanism(noise_multiplier: float) -> DpSgd:
        return DpSgd(
            sampling_probability=demand.sampling_probability,
            clipping_norm=demand.clipping_norm,
            noise_multiplier=noise_multiplier,
            num_rounds=demand.num_rounds,
            local_steps=demand.local_steps,
        )

    def cost(noise_multiplier: float) -> float:
        query = Query(step="train", splits=("train",), mechanism=mechanism(noise_multiplier))
        return epsilon([*spent, query.events], delta)

    return mechanism(_least_noise(cost, epsilon_target, guess=_clt_noise(demand, epsilon_target, delta)))


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
) -> Query:
    spent = [query.events for query in queries.values() if splits[0] in query.splits]
    count = demand.score_histograms

    def cost(noise_stddev: float) -> float:
        mechanism = NoisyHistograms(noise_stddev=noise_stddev, num_histograms=count)
        return epsilon([*spent, mechanism.event], delta)

    remaining = (1 - shares.validate_) * gaussian_mu(epsilon_target, delta) ** 2
    stddev = _least_noise(cost, epsilon_target, guess=math.sqrt(count / remaining))
    mechanism = NoisyHistograms(noise_stddev=stddev, num_histograms=count)
    return Query(step="analyze", splits=splits, mechanism=mechanism)


def _least_noise(cost: Callable[[float], float], target: float, *, guess: float) -> float:
    """Returns nearly the smallest noise, found from `guess`, whose `cost` is at most `target`."""
    low = high = max(guess, MIN_NOISE)
    while cost(high) > target:
        low, high = high, high * 1.2
        if high > MAX_NOISE:
            raise PrivacyError(
                f"Expected epsilon {target:g} to suffice for some noise, found that even noise {high:g} costs more: "
                "raise privacy.epsilon, or lower privacy.shares or training.rounds."
            )
    while low > MIN_NOISE and cost(low) <= target:
        low, high = max(low / 1.2, MIN_NOISE), low
    if cost(low) <= target:
        return low

    def excess(log_noise: float) -> float:
        return math.log(max(cost(math.exp(log_noise)), 1e-9) / target)

    noise = math.exp(brentq(excess, math.log(low), math.log(high), xtol=5e-4))
    while cost(noise) > target:
        noise *= 1.0005
    return noise
