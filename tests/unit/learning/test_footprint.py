"""What a model takes, without building it."""

from __future__ import annotations

from typing import Any

import pytest

from fedpipe.data.transform import InputGroup
from fedpipe.learning import ModelDefinition, ModelSettings, TrainingSettings
from fedpipe.learning.architectures import build_model
from fedpipe.learning.chunk_sizes import CHUNK
from fedpipe.learning.footprint import FLOAT_BYTES, GRADIENTS, training_bytes

TABLE, TEXT = InputGroup(kind="tabular", shape=(5,)), InputGroup(kind="text", shape=(9,))
HUNDRED_MB = 25_000_000 * FLOAT_BYTES


def define(
    kind: str, *groups: InputGroup, hidden: tuple[int, ...] = (7, 3), classes: int = 2
) -> ModelDefinition:
    settings = ModelSettings.model_validate({"type": kind, "hidden_units": hidden})
    num_features = sum(group.width for group in groups)
    return ModelDefinition(settings=settings, num_features=num_features, num_classes=classes, groups=groups)


def estimate(
    definition: ModelDefinition, *, local_steps: int = 1, max_records: int = 1, **training: Any
) -> int:
    settings = TrainingSettings.model_validate({"local_steps": 2, **training})
    return training_bytes(definition, settings, local_steps=local_steps, max_records=max_records)


def picture(*shape: int) -> InputGroup:
    return InputGroup(kind="image", shape=shape)


@pytest.mark.parametrize(
    "definition",
    [
        define("logistic_regression", TABLE),
        define("logistic_regression", TABLE, classes=4),
        define("mlp", TABLE, TEXT),
        define("wide_and_deep", TABLE, TEXT),
        define("wide_and_deep", TABLE),
        define("cnn", picture(28, 28, 1), classes=10),
        define("cnn", picture(9, 12, 3)),
        define("cnn", picture(3, 4, 1)),
    ],
    ids=lambda definition: f"{definition.settings.type}-{definition.num_features}-{definition.num_classes}",
)
def test_every_local_step_adds_the_noise_of_each_parameter(definition: ModelDefinition) -> None:
    num_parameters = build_model(definition).count_params()
    added = estimate(definition, local_steps=11) - estimate(definition, local_steps=1)
    assert added == 10 * FLOAT_BYTES * num_parameters


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": (10**12, 1)},
        {"hidden": (1,) * 10_000},
        {"local_steps": 10**9},
        {"max_records": 10**9},
        {"groups": (InputGroup(kind="text", shape=(10**7,)),)},
    ],
    ids=["wide", "deep", "long", "many records of a user", "many inputs"],
)
def test_whatever_makes_a_model_huge_counts(change: dict[str, Any]) -> None:
    groups, hidden = change.pop("groups", (TABLE,)), change.pop("hidden", (7, 3))
    assert estimate(define("mlp", *groups, hidden=hidden), **change) > 4 << 30


def test_a_model_of_a_hundred_megabytes_stays_within_the_default() -> None:
    large = define("mlp", TABLE, hidden=(5000, 5000))
    assert 13 * HUNDRED_MB < estimate(large) < 4 << 30
    for optimizer in ("momentum", "adam"):
        assert estimate(large) < estimate(large, local_optimizer=optimizer) < 4 << 30


def test_gradients_of_single_examples_count_where_they_are_made() -> None:
    model = define("mlp", TABLE, hidden=(1000, 1000))
    gradients = GRADIENTS * CHUNK * FLOAT_BYTES * build_model(model).count_params()
    assert estimate(model, kernel="tensorflow_privacy") - estimate(model) == gradients
    assert estimate(model, max_records=2) - estimate(model) == gradients


def test_weights_that_came_along_tell_the_size_of_a_custom_model() -> None:
    settings = ModelSettings.model_validate({"type": "custom", "builder": "owner.models:build"})
    custom = ModelDefinition(settings=settings, num_features=3, num_classes=2)
    small, large = (
        training_bytes(custom, TrainingSettings(), local_steps=1, num_weights=number)
        for number in (10, 10**8)
    )
    assert small < 1 << 20 < 4 << 30 < large
