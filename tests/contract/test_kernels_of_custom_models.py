"""Every layer with a rule, and layers without one: sums equal gradients made one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.learning import ModelDefinition, ModelSettings, TrainingSettings
from fedpipe.learning.architectures import build_model, initial_weights
from fedpipe.learning.book_keeping_kernel import clipped_sum_by_rules, has_rules
from fedpipe.learning.kernel import Kernel, make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.probes import is_right
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, flatten, unflatten

KERNELS = get_args(TrainingSettings.model_fields["kernel"].annotation)
NUM_FEATURES = 24
layers = tf.keras.layers
Body = Callable[[tf.Tensor], tf.Tensor]


def words(inputs: tf.Tensor) -> tf.Tensor:
    """Returns numbers in [0, 5), many of them equal."""
    return tf.math.floormod(tf.cast(3 * inputs, tf.int32), 5)


def strided_convolution(x: tf.Tensor) -> tf.Tensor:
    x = layers.Reshape((4, 3, 2))(x)
    x = layers.Conv2D(3, 2, strides=(2, 1), padding="same", activation="tanh")(x)
    return layers.Flatten()(layers.MaxPool2D(2, 1, padding="same")(x))


def wide_convolution(x: tf.Tensor) -> tf.Tensor:
    """Sees 160 numbers at each position: more than a convolution that copies is worth."""
    x = layers.Conv2D(40, 1, activation="tanh")(layers.Reshape((4, 3, 2))(x))
    return layers.Flatten()(layers.Conv2D(2, 2, strides=(2, 1), padding="same", activation="tanh")(x))


def dilated_convolution(x: tf.Tensor) -> tf.Tensor:
    x = layers.Reshape((6, 4, 1))(x)
    x = layers.Conv2D(2, (3, 2), dilation_rate=(2, 1), use_bias=False)(x)
    x = layers.Conv2D(3, 2, padding="same", dilation_rate=2, activation="relu")(x)
    return layers.GlobalAveragePooling2D()(x)


def convolution_over_time(x: tf.Tensor) -> tf.Tensor:
    x = layers.Reshape((12, 2))(x)
    x = layers.Conv1D(3, 3, strides=2, padding="same", activation="tanh")(x)
    x = layers.Conv1D(2, 2, dilation_rate=2, padding="causal")(x)
    return layers.Flatten()(layers.Conv1D(2, 3, padding="valid")(layers.AveragePooling1D(2, 1)(x)))


def embedding(x: tf.Tensor) -> tf.Tensor:
    x = layers.Embedding(5, 3)(layers.Lambda(words)(x))
    return layers.GlobalAveragePooling1D()(layers.Dense(4, activation="tanh")(x))


def embedding_called_twice(x: tf.Tensor) -> tf.Tensor:
    table, ids = layers.Embedding(5, 3), layers.Lambda(words)(x)
    left, right = table(ids[:, :10]), table(ids[:, 5:15])
    return layers.Flatten()(layers.Multiply()([left, right]))


def normalizations(x: tf.Tensor) -> tf.Tensor:
    x = layers.LayerNormalization()(layers.Dense(8)(x))
    x = layers.LayerNormalization(axis=[1, 2], center=False)(layers.Reshape((2, 4))(x))
    x = layers.GroupNormalization(groups=2)(layers.Activation("tanh")(x))
    return layers.Flatten()(layers.LayerNormalization(axis=1, scale=False)(x))


def group_normalized_picture(x: tf.Tensor) -> tf.Tensor:
    x = layers.Conv2D(4, 2)(layers.Reshape((4, 3, 2))(x))
    return layers.Flatten()(layers.GroupNormalization(groups=-1)(layers.ReLU()(x)))


def dense_over_sequence(x: tf.Tensor) -> tf.Tensor:
    x = layers.Dense(5, activation="tanh")(layers.Reshape((2, 3, 4))(x))
    return layers.Flatten()(layers.Dropout(0.5)(layers.Dense(2, use_bias=False)(x)))


def attention(x: tf.Tensor) -> tf.Tensor:
    x = layers.Dense(4)(layers.Reshape((6, 4))(x))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)])
    return layers.GlobalMaxPooling1D()(layers.LayerNormalization()(x))


def einsum_dense(x: tf.Tensor) -> tf.Tensor:
    x = layers.Reshape((4, 6))(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(4, 3), bias_axes="bd", activation="tanh")(x)
    return layers.EinsumDense("abd,bde->ae", output_shape=4, bias_axes="e")(x)


def twins(x: tf.Tensor) -> tf.Tensor:
    """A whole model called twice: convolutions and dense layers with cross terms between the calls."""
    inner = tf.keras.Sequential(
        [layers.Input((12,)), layers.Reshape((6, 2)), layers.Conv1D(2, 2), layers.Flatten(), layers.Dense(3)]
    )
    return layers.Subtract()([inner(x[:, :12]), inner(x[:, 12:])])


def residual(x: tf.Tensor) -> tf.Tensor:
    hidden = layers.Dense(6, activation="gelu")(x)
    again = layers.Dense(6, activation="softplus")
    return layers.Concatenate()([hidden + again(hidden), again(again(hidden))])


class OwnScale(layers.Layer):
    """A layer of the user's own."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight("scale", (shape[-1],), initializer="ones")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * self.scale


class SquaringDense(layers.Dense):
    """Named like a layer with a rule, it computes something else."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, self.kernel**2)


class Tied(layers.Layer):
    """Uses another layer's weights once more: no call tells of it."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self.other = other

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(inputs, self.other.kernel, transpose_b=True)


def own_layer(x: tf.Tensor) -> tf.Tensor:
    return OwnScale()(layers.Dense(4)(x))


def subclass(x: tf.Tensor) -> tf.Tensor:
    return SquaringDense(4)(x)


def tied_weights(x: tf.Tensor) -> tf.Tensor:
    first = layers.Dense(4, activation="tanh")
    return Tied(first)(first(x))


def folded_sequence(x: tf.Tensor) -> tf.Tensor:
    """A sequence folded into the batch: what looks like examples are positions."""
    x = layers.Lambda(lambda values: tf.reshape(values, [-1, 4]))(x)
    return layers.Lambda(lambda values: tf.reshape(values, [-1, 18]))(layers.Dense(3)(x))


def time_distributed(x: tf.Tensor) -> tf.Tensor:
    return layers.Flatten()(layers.TimeDistributed(layers.Dense(2))(layers.Reshape((6, 4))(x)))


def recurrent(x: tf.Tensor) -> tf.Tensor:
    return layers.SimpleRNN(3)(layers.Reshape((6, 4))(x))


def depthwise(x: tf.Tensor) -> tf.Tensor:
    x = layers.DepthwiseConv2D(2)(layers.Reshape((4, 3, 2))(x))
    return layers.Flatten()(layers.Conv2D(4, 1, groups=2)(x))


BY_RULES: list[Body] = [
    strided_convolution,
    wide_convolution,
    dilated_convolution,
    convolution_over_time,
    embedding,
    embedding_called_twice,
    normalizations,
    group_normalized_picture,
    dense_over_sequence,
    attention,
    einsum_dense,
    twins,
    residual,
]
BY_GRADIENTS: list[Body] = [
    own_layer,
    subclass,
    tied_weights,
    folded_sequence,
    time_distributed,
    recurrent,
    depthwise,
]
BODIES = {body.__name__: body for body in (*BY_RULES, *BY_GRADIENTS)}


def _builder(body: Body) -> Callable[[ModelDefinition], tf.keras.Model]:
    def build(definition: ModelDefinition) -> tf.keras.Model:
        inputs = layers.Input((definition.num_features,))
        return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(body(inputs)))

    return build


for _name, _body in BODIES.items():
    globals()[f"build_{_name}"] = _builder(_body)


@lru_cache
def define(name: str, classes: int = 3) -> ModelDefinition:
    settings = ModelSettings.model_validate({"type": "custom", "builder": f"{__name__}:build_{name}"})
    return ModelDefinition(settings=settings, num_features=NUM_FEATURES, num_classes=classes)


first_weights = lru_cache(initial_weights)
reference_model = lru_cache(build_model)


@pytest.fixture(params=BODIES, scope="module")
def definition(request: pytest.FixtureRequest) -> ModelDefinition:
    return define(str(request.param))


@pytest.fixture(params=KERNELS, scope="module")
def kernel(request: pytest.FixtureRequest, definition: ModelDefinition) -> Kernel:
    return make_kernel(str(request.param), definition)


def make_task(definition: ModelDefinition, batches: list[range], **changes: Any) -> LocalTask:
    generator = np.random.default_rng(1)
    weights = first_weights(definition, 7)
    fields: dict[str, Any] = {
        "weights": (weights + 0.1 * generator.normal(size=weights.size)).astype(np.float32),
        "features": generator.normal(size=(200, NUM_FEATURES)).astype(np.float32),
        "labels": generator.integers(definition.num_classes, size=200).astype(np.int32),
        "batches": [np.array(batch, np.int32) for batch in batches],
        "noise": np.zeros((len(batches), weights.size), np.float32),
        "clipping_norm": 0.9,
        "local_step_size": 0.0,
    }
    return LocalTask(**{**fields, **changes})


def gradients(definition: ModelDefinition, task: LocalTask, weights: Vector) -> NDArray[np.float64]:
    """Returns every record's gradient, (200, num_parameters), from a Jacobian: no code of the kernels."""
    model = reference_model(definition)
    model.set_weights(unflatten(weights, [tuple(weight.shape) for weight in model.weights]))
    variables = model.trainable_variables
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(reduce_retracing=True)
    def one(features: tf.Tensor, label: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss(label, model(features))
        parts = tape.gradient(value, variables, unconnected_gradients="zero")
        return [tf.convert_to_tensor(part) for part in parts]

    rows = [
        flatten([part.numpy() for part in one(task.features[row : row + 1], task.labels[row : row + 1])])
        for row in range(len(task.labels))
    ]
    return np.stack(rows).astype(np.float64)


@lru_cache
def reference(definition: ModelDefinition) -> NDArray[np.float64]:
    task = make_task(definition, [])
    return gradients(definition, task, task.weights)


def clipped(parts: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    norms = np.linalg.norm(parts, axis=1, keepdims=True)
    return parts * np.minimum(1, norm / np.maximum(norms, 1e-30))


def assert_close(found: Vector, expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("body", BODIES)
def test_rules_are_used_where_they_hold_and_only_there(body: str) -> None:
    definition = define(body)
    model = build_model(definition)
    by_rules = has_rules(model) and is_right(clipped_sum_by_rules(model)(1), model)
    # A time-distributed dense layer is found within its wrapper, and its positions are no examples.
    assert by_rules == (BODIES[body] in BY_RULES)


@pytest.mark.parametrize("size", [0, 1, 7, 200])
@pytest.mark.parametrize("clipping_norm", [0.02, 0.9, 1e6])
def test_sum_is_that_of_gradients_made_one_at_a_time(
    kernel: Kernel, definition: ModelDefinition, size: int, clipping_norm: float
) -> None:
    task = make_task(definition, [range(size)], clipping_norm=clipping_norm)
    assert_close(kernel.noisy_sums(task), clipped(reference(definition)[:size], clipping_norm).sum(axis=0))


def test_weights_scale_before_clipping(kernel: Kernel, definition: ModelDefinition) -> None:
    weights = np.random.default_rng(3).random(200).astype(np.float32)
    task = make_task(definition, [range(90)], example_weights=weights)
    expected = clipped(weights[:90, np.newaxis] * reference(definition)[:90], 0.9)
    assert_close(kernel.noisy_sums(task), expected.sum(axis=0))


def test_noise_reaches_every_weight(kernel: Kernel, definition: ModelDefinition) -> None:
    # The rows of a table that nobody looked up as well: their silence would tell.
    size = first_weights(definition, 7).size
    noise = np.random.default_rng(2).normal(size=(1, size)).astype(np.float32)
    quiet = kernel.noisy_sums(make_task(definition, [range(3)]))
    loud = kernel.noisy_sums(make_task(definition, [range(3)], noise=noise))
    assert_close(loud - noise[0], quiet.astype(np.float64))
    assert (loud != quiet).all()


def test_local_steps_follow_their_recurrence(kernel: Kernel, definition: ModelDefinition) -> None:
    size = first_weights(definition, 7).size
    batches = [range(3), range(0), range(2, 70)]
    noise = 0.1 * np.random.default_rng(2).normal(size=(3, size)).astype(np.float32)
    task = make_task(definition, batches, noise=noise, local_step_size=0.1)
    total = np.zeros(size)
    for batch, draw in zip(batches, noise, strict=True):
        weights = (task.weights - 0.1 * total).astype(np.float32)
        total += clipped(gradients(definition, task, weights)[list(batch)], 0.9).sum(axis=0) + draw
    assert_close(kernel.noisy_sums(task), total)


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])
def test_no_record_breaks_the_sum_or_the_bound(
    kernel: Kernel, definition: ModelDefinition, value: float
) -> None:
    task = make_task(definition, [range(70)])
    task.features[5] = value
    task.features[6, 3] = value
    found = kernel.noisy_sums(task)
    assert np.isfinite(found).all()
    others = clipped(np.delete(reference(definition)[:70], [5, 6], axis=0), 0.9).sum(axis=0)
    assert np.linalg.norm(found - others) <= 2 * 0.9 + 1e-3
