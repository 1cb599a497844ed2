"""Models that mix examples are found, whatever does the mixing; wrong sums are, whatever is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import ConfigError
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import build_model
from fedpipe.learning.book_keeping_kernel import clipped_sum_by_rules
from fedpipe.learning.chunks import ClippedSum
from fedpipe.learning.probes import is_right, mixes_examples, probe_features
from fedpipe.learning.tensorflow_runtime import tf

layers = tf.keras.layers
Body = Callable[[tf.Tensor], tf.Tensor]


def build(body: Body) -> tf.keras.Model:
    inputs = layers.Input((6,))
    return tf.keras.Model(inputs, layers.Dense(2)(body(layers.Dense(4, activation="tanh")(inputs))))


MIXING: dict[str, Body] = {
    "centred": lambda x: x - tf.reduce_mean(x, axis=0, keepdims=True),
    "scaled by the largest": lambda x: x / (1e-3 + tf.reduce_max(tf.abs(x))),
    "next row": lambda x: tf.roll(x, 1, axis=0),
    "softmax over the batch": lambda x: tf.nn.softmax(x, axis=0),
    "attention over the batch": lambda x: tf.matmul(tf.nn.softmax(tf.matmul(x, x, transpose_b=True)), x),
    "counts the batch": lambda x: x * tf.cast(tf.shape(x)[0], tf.float32),
}
APART: dict[str, Body] = {
    "nothing": lambda x: x,
    "softmax over units": tf.nn.softmax,
    "normalised": layers.LayerNormalization(),
    "dropout": layers.Dropout(0.5),
}


@pytest.mark.parametrize("body", MIXING.values(), ids=MIXING)
def test_mixing_is_found(body: Body) -> None:
    assert mixes_examples(build(body))


@pytest.mark.parametrize("body", APART.values(), ids=APART)
def test_records_that_stay_apart_are_accepted(body: Body) -> None:
    assert not mixes_examples(build(body))


def custom(monkeypatch: pytest.MonkeyPatch, body: Body) -> ModelDefinition:
    module: Any = ModuleType("own_models")
    module.build = lambda definition: tf.keras.Sequential(
        [layers.Input((6,)), layers.Lambda(body), layers.Dense(definition.num_logits)]
    )
    monkeypatch.setitem(sys.modules, "own_models", module)
    settings = ModelSettings.model_validate({"type": "custom", "builder": "own_models:build"})
    return ModelDefinition(settings=settings, num_features=6, num_classes=2)


def test_builder_that_mixes_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="take no mean, sum or product over the first axis"):
        build_model(custom(monkeypatch, MIXING["centred"]))


def test_builder_that_fails_on_plain_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_greater(x, 5.0)]):
            return tf.identity(x)

    with pytest.raises(ConfigError, match="inputs between 0 and 1"):
        build_model(custom(monkeypatch, fail))


def test_right_sum_is_right() -> None:
    model = build(APART["nothing"])
    assert is_right(clipped_sum_by_rules(model)(1), model)


def scaled(factor: float) -> Callable[[ClippedSum], ClippedSum]:
    return lambda right: lambda *arguments: factor * right(*arguments)


def without_clipping(right: ClippedSum) -> ClippedSum:
    return lambda features, labels, weights, norm: right(features, labels, weights, 1e6 * norm)


def clipped_as_a_batch(right: ClippedSum) -> ClippedSum:
    def wrong(features: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_norm(right(features, labels, weights, 1e6 * norm), norm)

    return wrong


def without_the_last(right: ClippedSum) -> ClippedSum:
    return lambda features, labels, weights, norm: right(features[:-1], labels[:-1], weights[:-1], norm)


@pytest.mark.parametrize(
    "break_it", [scaled(1.01), scaled(0.0), without_clipping, clipped_as_a_batch, without_the_last]
)
def test_wrong_sum_is_found(break_it: Callable[[ClippedSum], ClippedSum]) -> None:
    model = build(APART["nothing"])
    assert not is_right(break_it(clipped_sum_by_rules(model)(1)), model)


def test_probes_are_valid_measurements_flags_and_row_numbers() -> None:
    features = probe_features(50)
    assert features.dtype == np.float32
    assert features.min() == 0
    assert features.max() == 1
    assert ((features > 0) & (features < 1)).any()
