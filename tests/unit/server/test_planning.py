"""The plan follows from public settings alone."""

from __future__ import annotations

from typing import Any

import pytest

from fedpipe.config import Config, parse_config
from fedpipe.errors import ConfigError
from fedpipe.privacy import DpSgd, NoisyHistograms
from server.planning import make_plan, make_terms


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "name": "small",
        "schema": {
            "label": {"name": "ill", "classes": {"no": [], "yes": []}},
            "key": "record_id",
            "columns": {
                "age": {"type": "numeric", "minimum": 0, "maximum": 100},
                "size": {"type": "numeric", "minimum": 0, "maximum": 1, "normalize": "range"},
                "town": {"type": "categorical", "hash_buckets": 8},
            },
        },
        "training": {"num_rounds": 5, "local_steps": 2, "sampling_probability": 0.25, "clipping_norm": 2.0},
    }
    return parse_config(values | changes, source="test")


def test_a_private_plan_charges_every_query_within_the_target() -> None:
    plan = make_plan(config())
    assert plan.private
    assert plan.keyed
    assert sorted(plan.queries) == ["columns", "evaluation", "features", "labels", "training"]
    assert 7.9 < plan.total_epsilon() <= 8.0
    histograms = {
        name: query.mechanism.num_histograms
        for name, query in plan.queries.items()
        if isinstance(query.mechanism, NoisyHistograms)
    }
    assert histograms == {"columns": 3, "evaluation": 1, "features": 2, "labels": 1}
    training = plan.queries["training"].mechanism
    assert isinstance(training, DpSgd)
    assert (training.num_rounds, training.local_steps) == (5, 2)
    assert (training.sampling_probability, training.clipping_norm) == (0.25, 2.0)


def test_every_slice_is_a_histogram_of_the_plan() -> None:
    slices = make_plan(config(analyze={"slices": ["town"]})).queries["slices"].mechanism
    assert isinstance(slices, NoisyHistograms)
    assert slices.num_histograms == 1


def test_the_same_settings_make_the_same_terms() -> None:
    assert make_terms(config()).digest == make_terms(config()).digest


def test_without_privacy_there_is_nothing_to_charge() -> None:
    plan = make_plan(config(privacy={"enabled": False}))
    assert (plan.private, plan.queries) == (False, {})


def dated(**spans: Any) -> Config:
    schema = config().data_schema.model_dump() | {"time": {"column": "received", "window": "quarter"}}
    return config(schema=schema, spans=spans)


def test_terms_name_the_spans_of_the_run() -> None:
    assert make_terms(config()).spans == ("undated",)
    assert make_terms(dated(names=["2025-Q4", "2026-Q1"])).spans == ("2025-Q4", "2026-Q1")


def test_spans_that_nobody_named_are_no_terms() -> None:
    with pytest.raises(ConfigError, match=r"spans\.names"):
        make_terms(dated(last=2))
