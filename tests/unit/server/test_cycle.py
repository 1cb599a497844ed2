"""What a step's result depends on: results of before stand only for the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedpipe.privacy import PrivacyPlan
from server.cycle import Surroundings

STEPS = ("statistics", "preprocess", "train", "analyze")


def settings_of(step: str, **unit: Any) -> dict[str, Any]:
    """Returns what `step` depends on in a run without privacy: the unit decides what is read all the same."""
    fields = {"private": False, "epsilon": 1.0, "delta": 1e-5, "keyed": True, "randomness": "secure"}
    plan = PrivacyPlan.model_validate({**fields, "queries": {}, **unit})
    around: Any = SimpleNamespace(asker=SimpleNamespace(terms=SimpleNamespace(plan=plan)))
    return Surroundings.release(around, step)


@pytest.mark.parametrize("step", STEPS)
def test_results_for_another_unit_or_bound_are_others(step: str) -> None:
    units: list[dict[str, Any]] = [{}]
    units += [{"unit": "user", "user": {"column": "patient", "max_records": k}} for k in (1, 5)]
    found = [settings_of(step, **unit) for unit in units]
    assert all(found[i] != found[j] for i in range(3) for j in range(i))
    assert settings_of(step) == found[0]
