"""Wide and deep, pictures, and models of one's own: what they compute, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from fedpipe.data.transform import InputGroup
from fedpipe.errors import ConfigError
from fedpipe.learning import ModelDefinition, ModelSettings, architectures
from fedpipe.learning.architectures import build_model, initial_weights, predict
from fedpipe.learning.book_keeping_kernel import has_rules
from fedpipe.learning.tensorflow_runtime import tf

TABLE = InputGroup(kind="tabular", shape=(2,))
TEXT = InputGroup(kind="text", shape=(3,))
layers = tf.keras.layers


def define(kind: str, *groups: InputGroup, classes: int = 2, **settings: Any) -> ModelDefinition:
    width = sum(group.width for group in groups)
    model = ModelSettings.model_validate({"type": kind, "hidden_units": (4,), **settings})
    return ModelDefinition(settings=model, num_features=width, num_classes=classes, groups=groups)


def answer(definition: ModelDefinition, model: tf.keras.Model, column: int) -> bool:
    """Returns whether the hidden layer's output changes with an input."""
    inputs = np.zeros((2, definition.num_features), np.float32)
    inputs[1, column] = 1
    hidden = next(layer for layer in model.layers if getattr(layer, "units", 0) == 4)
    outputs = tf.keras.Model(model.inputs, hidden.output)(inputs).numpy()
    return not np.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("groups", "deep"),
    [
        ((TABLE, TEXT), [False, False, True, True, True]),
        ((TEXT, TABLE), [True, True, True, False, False]),
        ((TABLE, TEXT, TABLE), [False, False, True, True, True, False, False]),
        ((TABLE,), [True, True]),
        ((TEXT,), [True, True, True]),
    ],
)
def test_hidden_layers_read_the_text_or_else_all(groups: tuple[InputGroup, ...], deep: list[bool]) -> None:
    definition = define("wide_and_deep", *groups)
    model = build_model(definition)
    hidden = next(layer for layer in model.layers if getattr(layer, "units", 0) == 4)
    hidden.kernel.assign(tf.ones_like(hidden.kernel))
    assert [answer(definition, model, column) for column in range(definition.num_features)] == deep
    assert has_rules(model)


def test_wide_and_deep_by_hand() -> None:
    definition = define("wide_and_deep", TABLE, TEXT, hidden_units=(1,))
    shapes = [tuple(weight.shape) for weight in build_model(definition).trainable_variables]
    assert sorted(shapes) == [(1,), (1,), (1,), (1, 1), (2, 1), (3, 1)]
    values = {(2, 1): [1.0, 2.0], (3, 1): [1.0, 1.0, -9.0], (1, 1): [3.0]}
    weights = np.concatenate([values.get(shape, [0.5]) for shape in shapes]).astype(np.float32)
    features = np.array([[1, 1, 2, 0, 0], [0, 1, 0, 0, 1]], np.float32)
    # Biases are 0.5: table + 0.5 + 3 relu(text + 0.5) + 0.5.
    logits = np.array([3 + 0.5 + 3 * 2.5 + 0.5, 2 + 0.5 + 0 + 0.5])
    np.testing.assert_allclose(predict(definition, weights, features), 1 / (1 + np.exp(-logits)), rtol=1e-6)


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (8, 1), (32, 3), (20, 1), (19, 1), (4, 1)])
def test_pictures_of_many_sizes_can_be_learnt(side: int, channels: int) -> None:
    definition = define("cnn", InputGroup(kind="image", shape=(side, side, channels)), classes=10)
    features = np.random.default_rng(0).random((3, definition.num_features), np.float32)
    scores = predict(definition, initial_weights(definition, 1), features)
    assert scores.shape == (3, 10)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(scores[0] - scores[1]).max() > 1e-4


@pytest.mark.parametrize("groups", [(TABLE,), (TABLE, InputGroup(kind="image", shape=(8, 8, 1)))])
def test_pictures_need_exactly_one_column(groups: tuple[InputGroup, ...]) -> None:
    with pytest.raises(ConfigError, match=r"exactly one column, an image, for model\.type cnn"):
        build_model(define("cnn", *groups))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 1), (2, 40, 1)])
def test_pictures_too_small_for_the_network_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="picture"):
        build_model(define("cnn", InputGroup(kind="image", shape=shape)))


def test_scores_do_not_depend_on_how_records_are_batched_or_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = define("mlp", TABLE, TEXT)
    weights = initial_weights(definition, 1)
    features = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)
    whole = predict(definition, weights, features)
    monkeypatch.setattr(architectures, "ROWS", 7)
    np.testing.assert_allclose(predict(definition, weights, features), whole, rtol=1e-6)
    np.testing.assert_allclose(predict(definition, weights, csr_matrix(features)), whole, rtol=1e-6)


def good(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features,))
    hidden = layers.LayerNormalization()(layers.Dense(4, activation="gelu")(inputs))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(hidden))


def normalized(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features,))
    hidden = tf.keras.Sequential([layers.Dense(4), layers.BatchNormalization(name="mixer")])(inputs)
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(hidden))


def too_wide(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features,))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits + 1)(inputs))


def other_inputs(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features + 1,))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(inputs))


def two_inputs(definition: ModelDefinition) -> tf.keras.Model:
    inputs = [layers.Input((definition.num_features,)) for _ in range(2)]
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(layers.Add()(inputs)))


def unbuilt(definition: ModelDefinition) -> tf.keras.Model:
    return tf.keras.Sequential([layers.Dense(definition.num_logits)])


def no_model(definition: ModelDefinition) -> list[int]:
    return [definition.num_features]


def partly_frozen(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features,))
    hidden = layers.Dense(4, trainable=False)(inputs)
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(hidden))


def broken(definition: ModelDefinition) -> tf.keras.Model:
    return tf.keras.Model(layers.Input((definition.num_features,)), None).absent


def custom(name: str) -> ModelDefinition:
    return define("custom", TABLE, TEXT, builder=f"{__name__}:{name}")


def test_a_model_of_one_s_own_trains_and_answers() -> None:
    definition = custom("good")
    weights = initial_weights(definition, 3)
    np.testing.assert_array_equal(weights, initial_weights(definition, 3))
    assert (weights != initial_weights(definition, 4)).any()
    assert weights.size == sum(
        int(np.prod(weight.shape)) for weight in build_model(definition).trainable_variables
    )
    assert predict(definition, weights, np.zeros((2, 5), np.float32)).shape == (2,)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("normalized", "'mixer', which mixes a batch"),
        ("too_wide", r"to map \(None, 5\) to \(None, 1\), found \(None, 5\) to \(None, 2\)"),
        ("other_inputs", r"found \(None, 6\)"),
        ("two_inputs", "to map"),
        ("unbuilt", "a built Keras model"),
        ("no_model", "found list"),
        ("partly_frozen", "train"),
        ("broken", "model.builder"),
        ("absent", "found none"),
    ],
)
def test_what_cannot_be_trained_privately_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build_model(custom(name))


def test_a_missing_module_says_how_to_add_it() -> None:
    with pytest.raises(ConfigError, match=r"model\.builder='no\.such:thing'.*PYTHONPATH"):
        build_model(define("custom", TABLE, builder="no.such:thing"))


def test_a_builder_beside_the_caller_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_models_for_a_test")
    module.build = good  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert build_model(define("custom", TABLE, TEXT, builder=f"{module.__name__}:build")).output_shape == (
        None,
        1,
    )
