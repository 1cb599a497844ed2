"""From a configuration to what clients are asked to agree to. Reads public settings alone."""

from __future__ import annotations

from fedpipe.config import Config
from fedpipe.data.profile import profiled_columns
from fedpipe.federation.terms import RunTerms
from fedpipe.learning.score_histograms import num_histograms
from fedpipe.privacy import Demand, PrivacyPlan, calibrate


def make_terms(config: Config) -> RunTerms:
    """Returns what clients are asked to agree to."""
    return RunTerms(
        data_schema=config.data_schema,
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
    keyed = schema.key is not None
    if not privacy.enabled:
        return PrivacyPlan(
            private=False,
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
    )
    return calibrate(
        demand,
        epsilon_target=privacy.epsilon,
        delta=privacy.delta,
        shares=privacy.shares,
        randomness=privacy.randomness,
    )
