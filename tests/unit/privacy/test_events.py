from __future__ import annotations

import json
import math
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.errors import PrivacyError
from fedpipe.files import canonical_json
from fedpipe.privacy import DiscreteGaussianDpEvent, event_from_json, event_to_json
from fedpipe.privacy.events import check_event

noises = st.floats(1e-3, 1e6)
gaussians = noises.map(dp_event.GaussianDpEvent)
sampled = st.builds(dp_event.PoissonSampledDpEvent, st.floats(1e-6, 1.0), gaussians)
leaves = st.one_of(gaussians, sampled, noises.map(DiscreteGaussianDpEvent))
events = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(dp_event.SelfComposedDpEvent, inner, st.integers(1, 1000)),
        st.lists(inner, min_size=1, max_size=3).map(dp_event.ComposedDpEvent),
    ),
    max_leaves=5,
)


@given(events)
def test_an_event_survives_its_json_text(event: DpEvent) -> None:
    assert event_from_json(json.loads(canonical_json(event_to_json(event)))) == event


def test_json_names_every_number() -> None:
    step = dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(0.89))
    assert event_to_json(dp_event.SelfComposedDpEvent(step, 60)) == {
        "version": 1,
        "type": "SelfComposed",
        "count": 60,
        "event": {
            "type": "PoissonSampled",
            "sampling_probability": 0.1,
            "event": {"type": "Gaussian", "noise_multiplier": 0.89},
        },
    }


GAUSSIAN: dict[str, Any] = {"type": "Gaussian", "noise_multiplier": 1.0}
DISCRETE: dict[str, Any] = {"type": "DiscreteGaussian", "noise_stddev": 1.0, "sensitivity": 1}


@pytest.mark.parametrize(
    "data",
    [
        GAUSSIAN,
        {"version": 2, **GAUSSIAN},
        {"version": True, **GAUSSIAN},
        {"version": "1", **GAUSSIAN},
    ],
)
def test_another_format_version_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="version"):
        event_from_json(data)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "Laplace", "noise_multiplier": 1.0},
        {"type": ["Gaussian"], "noise_multiplier": 1.0},
        {"type": "Gaussian"},
        {**GAUSSIAN, "sampling_probability": 0.1},
        {**DISCRETE, "sensitivity": 2},
        {"type": "PoissonSampled", "sampling_probability": 0.1, "event": DISCRETE},
        {"type": "PoissonSampled", "sampling_probability": 1.5, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": 0, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": -3, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": 2.0, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": True, "event": GAUSSIAN},
        {"type": "SelfComposed", "count": 2, "event": "Gaussian"},
        {"type": "Composed", "events": GAUSSIAN},
        {"type": "Composed", "events": [GAUSSIAN, None]},
    ],
)
def test_an_event_without_a_rule_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match="Expected"):
        event_from_json({"version": 1, **fields})


@pytest.mark.parametrize("number", [0, -1.0, math.nan, math.inf, -math.inf, "1.0", None, True, [1.0]])
def test_a_noise_that_is_no_positive_number_is_refused(number: Any) -> None:
    with pytest.raises(PrivacyError, match="positive finite number"):
        event_from_json({"version": 1, "type": "Gaussian", "noise_multiplier": number})
    with pytest.raises(PrivacyError, match="positive finite number"):
        event_from_json({"version": 1, **DISCRETE, "noise_stddev": number})


@pytest.mark.parametrize("data", [[], "Gaussian", None])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(PrivacyError, match="Expected a privacy event"):
        event_from_json(data)


@pytest.mark.parametrize(
    "event",
    [
        dp_event.NonPrivateDpEvent(),
        dp_event.NoOpDpEvent(),
        dp_event.LaplaceDpEvent(1.0),
        dp_event.GaussianDpEvent(0.0),
        dp_event.GaussianDpEvent(math.nan),
        DiscreteGaussianDpEvent(-1.0),
        dp_event.PoissonSampledDpEvent(0.0, dp_event.GaussianDpEvent(1.0)),
        dp_event.PoissonSampledDpEvent(0.5, DiscreteGaussianDpEvent(1.0)),
        dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(1.0), -1),
        dp_event.ComposedDpEvent([dp_event.GaussianDpEvent(1.0), dp_event.LaplaceDpEvent(1.0)]),
    ],
)
def test_an_unsound_event_made_in_code_is_refused(event: DpEvent) -> None:
    with pytest.raises(PrivacyError):
        check_event(event)
    with pytest.raises(PrivacyError):
        event_to_json(event)
