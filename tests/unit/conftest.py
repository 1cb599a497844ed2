"""The terms of a small run, made by hand: calibration takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedpipe.data import PreprocessSettings, Schema
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import ModelSettings, TrainingSettings
from fedpipe.privacy import PrivacyPlan

SCHEMA = {
    "label": {"name": "ill", "classes": {"no": ["n"], "yes": ["y"]}},
    "key": "record_id",
    "columns": {
        "age": {"type": "numeric", "minimum": 0, "maximum": 100},
        "town": {"type": "categorical", "vocabulary": ["ulm", "trier"]},
    },
}


def plan_data() -> dict[str, Any]:
    """Returns a private, keyed, seeded plan of three rounds."""
    both = ["train", "eval"]

    def query(step: str, splits: list[str], num_histograms: int) -> dict[str, Any]:
        mechanism = {"kind": "noisy_histograms", "noise_stddev": 3.0, "num_histograms": num_histograms}
        return {"step": step, "splits": splits, "mechanism": mechanism}

    training = {
        "kind": "dp_sgd",
        "sampling_probability": 0.5,
        "clipping_norm": 1.0,
        "noise_multiplier": 2.0,
        "num_rounds": 3,
        "local_steps": 2,
    }
    return {
        "private": True,
        "epsilon": 8.0,
        "delta": 1e-5,
        "keyed": True,
        "randomness": "seeded",
        "queries": {
            "labels": query("statistics", both, 1),
            "columns": query("statistics", both, 2),
            "features": query("preprocess", both[:1], 2),
            "training": {"step": "train", "splits": both[:1], "mechanism": training},
            "evaluation": query("analyze", both[-1:], 1),
        },
    }


@pytest.fixture
def make_terms() -> Callable[..., RunTerms]:
    """Returns terms; `plan` replaces the whole plan, other arguments replace what they name."""

    def make(*, plan: dict[str, Any] | None = None, **changes: Any) -> RunTerms:
        values = {
            "data_schema": Schema.model_validate(SCHEMA),
            "eval_fraction": 0.25,
            "preprocess": PreprocessSettings.model_validate({"num_bins": 4}),
            "model": ModelSettings.model_validate({}),
            "training": TrainingSettings.model_validate({"num_rounds": 3, "local_steps": 2}),
            "plan": PrivacyPlan.model_validate(plan or plan_data()),
        }
        return RunTerms.model_validate(values | changes)

    return make
