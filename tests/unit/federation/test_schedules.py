"""Schedules: factors by hand, and within their bounds for all settings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedpipe.federation.schedules import schedule_factors
from fedpipe.learning import TrainingSettings


def factors(num_rounds: int, schedule: str, warmup_rounds: int = 0) -> list[float]:
    return schedule_factors(
        TrainingSettings.model_validate(
            {
                "num_rounds": num_rounds,
                "learning_rate_schedule": schedule,
                "warmup_rounds": warmup_rounds,
            }
        )
    )


def test_by_default_all_rounds_step_alike() -> None:
    assert schedule_factors(TrainingSettings.model_validate({"num_rounds": 3})) == [1.0, 1.0, 1.0]


def test_warmup_rises_evenly_and_then_the_schedule_begins() -> None:
    assert factors(5, "constant", 3) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(6, "linear", 2) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])


def test_cosine_falls_slowly_fast_slowly() -> None:
    half = math.sqrt(0.5)
    assert factors(4, "cosine") == pytest.approx([1.0, (1 + half) / 2, 0.5, (1 - half) / 2])


@given(
    num_rounds=st.integers(1, 300),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    part=st.floats(0, 0.99),
)
def test_factors_rise_then_fall_and_no_round_is_without_a_step(
    num_rounds: int, schedule: str, part: float
) -> None:
    warmup = int(part * num_rounds)
    found = factors(num_rounds, schedule, warmup)
    assert all(0 < factor <= 1 for factor in found)
    assert found[warmup] == 1
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)


def test_a_warmup_that_never_ends_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"warmup_rounds below num_rounds=3, found 3"):
        factors(3, "constant", 3)
