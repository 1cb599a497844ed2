"""From a configuration to what clients are asked to agree to. Reads public settings alone."""

from __future__ import annotations

from functools import lru_cache

from fedpipe.config import Config
from fedpipe.data.profile import profiled_columns
from fedpipe.federation.terms import RunTerms
from fedpipe.learning.score_histograms import num_histograms
from fedpipe.privacy import Demand, PrivacyPlan, Shares, calibrate
from fedpipe.privacy.randomness import Kind


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
