"""From a configuration to what clients are asked to agree to. Reads public settings alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from fedpipe.config import Config, SpanSettings
from fedpipe.data.profile import profiled_columns
from fedpipe.data.spans import newest_spans, spans_ending
from fedpipe.errors import ConfigError, PrivacyError, Shortfall
from fedpipe.federation.terms import RunTerms
from fedpipe.learning.score_histograms import num_histograms
from fedpipe.privacy import Demand, PrivacyPlan, Shares, calibrate
from fedpipe.privacy.accounting import renyi_divergence
from fedpipe.privacy.randomness import Kind

LEAST_EPSILON = 0.01
SEARCH_STEPS = 8


def make_terms(config: Config) -> RunTerms:
    """Returns what clients are asked to agree to."""
    return RunTerms(
        data_schema=config.data_schema,
        spans=config.run_spans,
        eval_fraction=config.eval_fraction,
        preprocess=config.preprocess,
        model=config.model,
        training=config.training,
        plan=make_plan(config),
    )


def with_spans_of_today(config: Config, today: date) -> Config:
    """Returns `config` with its spans named by the clock: the newest ones that are over.

    A coordinator observes no dates of records; without `spans.until`, the day decides.

    Raises:
      ConfigError: there is a time column, and `spans` does not say how many spans to use.
    """
    time, spans = config.data_schema.time, config.spans
    if time is None or spans.names is not None:
        return config
    if spans.last is None:
        raise ConfigError("Expected spans.last or spans.names for a federation, found neither: set one.")
    if spans.until is not None:
        names = newest_spans(spans.until, spans.last)
    else:
        names = spans_ending(today, time.window, spans.last)
    return config.model_copy(update={"spans": SpanSettings(last=None, until=None, names=names)})


def make_plan(config: Config) -> PrivacyPlan:
    """Returns the plan that `config` asks for, calibrated.

    Raises:
      PrivacyError: if no noise can meet the target.
    """
    schema, training, privacy = config.data_schema, config.training, config.privacy
    keyed, user = schema.has_lasting_splits, config.user_unit
    if not privacy.enabled:
        return PrivacyPlan(
            private=False,
            unit="user" if user else "record",
            user=user,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            keyed=keyed,
            randomness=privacy.randomness,
            queries={},
        )
    demand = Demand(
        label_histograms=1,
        column_histograms=len(schema.columns),
        feature_histograms=len(profiled_columns(schema)),
        score_histograms=num_histograms(schema.num_classes),
        slice_histograms=len(config.analyze.slices),
        sampling_probability=training.sampling_probability,
        clipping_norm=training.clipping_norm,
        num_rounds=training.num_rounds,
        local_steps=training.local_steps,
        keyed=keyed,
        user=user,
    )
    return _calibrated(demand, privacy.epsilon, privacy.delta, privacy.shares, privacy.randomness)


@lru_cache(maxsize=64)
def _calibrated(
    demand: Demand, epsilon: float, delta: float, shares: Shares, randomness: Kind
) -> PrivacyPlan:
    # A plan follows from these alone: whoever retrains every week pays for the search once.
    return calibrate(demand, epsilon_target=epsilon, delta=delta, shares=shares, randomness=randomness)


def ways_out(config: Config, shortfalls: Sequence[Shortfall]) -> str:
    """Returns what a person can do about a refused budget, with the epsilon that would fit."""
    fits = largest_epsilon(config, shortfalls) if shortfalls else None
    smaller = (
        f"ask for less: --set privacy.epsilon={fits:g} fits what is left"
        if fits is not None
        else "no smaller privacy.epsilon fits what is left"
    )
    return (
        f"Ways out: {smaller}; repeat an earlier run's settings, which is answered from its results at no "
        "cost; or use records that are not spent (later spans). A block's lifetime budget was fixed when it "
        "was first used."
    )


def largest_epsilon(config: Config, shortfalls: Sequence[Shortfall]) -> float | None:
    """Returns, in two digits, about the largest privacy.epsilon whose run fits every block that refused.

    None if not even LEAST_EPSILON does. Blocks that did not refuse have more left than was requested.
    """
    low, high = math.log(LEAST_EPSILON), math.log(config.privacy.epsilon)
    if not _fits(config, LEAST_EPSILON, shortfalls):
        return None
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _fits(config, math.exp(middle), shortfalls) else (low, middle)
    digits = 1 - math.floor(low / math.log(10))
    scale = 10.0**digits
    return max(math.floor(math.exp(low) * scale) / scale, LEAST_EPSILON)


def _fits(config: Config, epsilon: float, shortfalls: Sequence[Shortfall]) -> bool:
    privacy = config.privacy.model_copy(update={"epsilon": epsilon})
    try:
        plan = make_plan(config.model_copy(update={"privacy": privacy}))
    except PrivacyError:
        return False
    return all(
        sum(
            renyi_divergence(query.events, each.renyi_order)
            for query in plan.queries_for(each.split).values()
        )
        <= each.remaining
        for each in shortfalls
    )
