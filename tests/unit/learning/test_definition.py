"""Settings that cannot be trained with are refused when they are read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedpipe.learning import ModelDefinition, ModelSettings, TrainingSettings


@pytest.mark.parametrize(
    "fields",
    [
        {"clipping_norm": 0},
        {"clipping_norm": float("inf")},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"sampling_probability": 0},
        {"sampling_probability": 1.01},
        {"local_steps": 0},
        {"momentum": 1},
        {"kernel": "none"},
        {"unknown": 1},
    ],
)
def test_training_that_has_no_guarantee_or_no_end_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate(fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_units": (0,)},
        {"hidden_units": (-1,)},
        {"type": "rnn"},
        {"name": "a/b"},
        {"type": "custom"},
        {"type": "mlp", "builder": "mine:build"},
        {"type": "custom", "builder": "mine"},
        {"type": "custom", "builder": "mine:build()"},
    ],
)
def test_model_that_cannot_be_built_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelSettings.model_validate(fields)


def test_two_classes_share_one_logit() -> None:
    logits = [
        ModelDefinition(settings=ModelSettings.model_validate({}), num_features=1, num_classes=n).num_logits
        for n in (2, 3, 10)
    ]
    assert logits == [1, 3, 10]
