"""Keras models by definition. They take model inputs and return logits."""

from __future__ import annotations

import math
import threading
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.inputs import Inputs, dense_rows
from fedpipe.errors import ConfigError
from fedpipe.learning.builders import find_builder
from fedpipe.learning.chunk_sizes import ROWS
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.probes import mixes_examples
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, flatten, unflatten


def build_model(definition: ModelDefinition) -> tf.keras.Model:
    """Returns a new Keras model: float32 (n, num_features) -> logits (n, num_logits).

    Raises:
      ConfigError: the definition does not fit the architecture, or a custom builder is wrong.
    """
    if definition.settings.type == "custom":
        return build_custom_model(definition)
    inputs = tf.keras.Input((definition.num_features,), dtype=tf.float32)
    return tf.keras.Model(inputs, _ARCHITECTURES[definition.settings.type](definition, inputs))


def _linear(definition: ModelDefinition, inputs: tf.Tensor) -> tf.Tensor:
    return tf.keras.layers.Dense(definition.num_logits)(inputs)


def _hidden(definition: ModelDefinition, inputs: tf.Tensor) -> tf.Tensor:
    hidden = inputs
    for units in definition.settings.hidden_units:
        hidden = tf.keras.layers.Dense(units, activation="relu")(hidden)
    return _linear(definition, hidden)


def _wide_and_deep(definition: ModelDefinition, inputs: tf.Tensor) -> tf.Tensor:
    """Cheng et al. 2016 (arXiv:1606.07792): linear in the table plus hidden layers on the text.

    Without text, the hidden layers read the table.
    """
    table, text = _columns(definition, inputs, "tabular"), _columns(definition, inputs, "text")
    if table is None or text is None:
        return _linear(definition, inputs) + _hidden(definition, inputs)
    return _linear(definition, table) + _hidden(definition, text)


def _cnn(definition: ModelDefinition, inputs: tf.Tensor) -> tf.Tensor:
    """The small network of TensorFlow Privacy's MNIST tutorial, with tanh.

    Bounded activations keep gradients small, so clipping costs less (Papernot et al. 2021,
    arXiv:2007.14191).
    """
    if [group.kind for group in definition.groups] != ["image"]:
        raise ConfigError("Expected exactly one column, an image, for model.type cnn, found others.")
    shape = definition.groups[0].shape
    if min(shape[:2]) < 3:
        raise ConfigError("Expected 3 x 3 pixels or more for model.type cnn, found a smaller picture.")
    first, second = (8, 4) if min(shape[:2]) >= 20 else (3, 3)
    layers = tf.keras.layers
    hidden = tf.keras.layers.Reshape(shape)(inputs)
    hidden = layers.Conv2D(16, first, strides=2, padding="same", activation="tanh")(hidden)
    hidden = layers.MaxPool2D(2, 1)(hidden)
    hidden = layers.Conv2D(32, second, strides=2, padding="same", activation="tanh")(hidden)
    hidden = layers.MaxPool2D(2, 1, padding="same")(hidden)
    hidden = layers.Dense(32, activation="tanh")(layers.Flatten()(hidden))
    return _linear(definition, hidden)


_ARCHITECTURES = {
    "logistic_regression": _linear,
    "mlp": _hidden,
    "wide_and_deep": _wide_and_deep,
    "cnn": _cnn,
}


def _columns(definition: ModelDefinition, inputs: tf.Tensor, kind: str) -> tf.Tensor | None:
    """Returns the inputs of one kind side by side, or None if there are none."""
    parts, start = [], 0
    for group in definition.groups:
        if group.kind == kind:
            parts.append(inputs[:, start : start + group.width])
        start += group.width
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def build_custom_model(definition: ModelDefinition) -> tf.keras.Model:
    """Returns the model of the user's own builder, checked.

    Raises:
      ConfigError: the builder cannot be imported, or returns something else than a model of
        (n, num_features) -> (n, num_logits) whose examples do not mix.
    """
    builder = str(definition.settings.builder)
    function = find_builder(builder)
    try:
        with warnings.catch_warnings():  # Keras draws seeds between fractional bounds
            warnings.filterwarnings("ignore", "non-integer arguments to randrange", DeprecationWarning)
            model = function(definition)
    except Exception as error:
        raise ConfigError(
            f"Expected model.builder={builder!r} to build a model, found {type(error).__name__}: {error}"
        ) from error
    _check_custom_model(model, definition, builder)
    return model


def _check_custom_model(model: object, definition: ModelDefinition, builder: str) -> None:
    if not isinstance(model, tf.keras.Model) or not model.built:
        raise ConfigError(f"Expected {builder} to return a built Keras model, found {type(model).__name__}.")
    shapes = (tuple(model.input_shape), tuple(model.output_shape))
    wanted = ((None, definition.num_features), (None, definition.num_logits))
    if shapes != wanted:
        raise ConfigError(
            f"Expected {builder} to map {wanted[0]} to {wanted[1]}, found {shapes[0]} to {shapes[1]}."
        )
    _check_examples_stay_apart(model, builder)
    if model.non_trainable_variables:
        # They would begin differently at every client, and be lost in the served model.
        raise ConfigError(
            f"Expected {builder} to leave every weight trainable, found "
            f"{model.non_trainable_variables[0].name!r} frozen: make its values constants."
        )


def _check_examples_stay_apart(model: tf.keras.Model, builder: str) -> None:
    """The clipping norm bounds what a record does to the sum only if it does nothing to others' gradients."""
    mixing = [
        layer.name for layer in model.submodules if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    if mixing:
        raise ConfigError(
            f"Expected layers that treat each record alone, found {mixing[0]!r}, which mixes a batch: "
            "use LayerNormalization or GroupNormalization."
        )
    try:
        mixed = mixes_examples(model)
    except Exception as error:  # whatever the user's layers raise
        raise ConfigError(
            f"Expected {builder} to take inputs between 0 and 1, found {type(error).__name__}: {error}"
        ) from error
    if mixed:
        raise ConfigError(
            f"Expected the logits of a record to depend on that record alone, found that {builder} mixes a "
            "batch: take no mean, sum or product over the first axis."
        )


def initial_weights(definition: ModelDefinition, seed: int) -> Vector:
    """Returns float32 (num_parameters,): zeros for a linear model, else Glorot uniform and zero biases.

    Glorot and Bengio 2010. A custom model begins as its own initialisers say. Depends on `seed`
    alone, never on data.
    """
    if definition.settings.type == "custom":
        tf.keras.utils.set_random_seed(seed)
        return flatten([weight.numpy() for weight in build_custom_model(definition).trainable_variables])
    generator = np.random.default_rng(seed)
    shapes = [tuple(weight.shape) for weight in build_model(definition).trainable_variables]
    linear = definition.settings.type == "logistic_regression"

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        if linear or len(shape) < 2:
            return np.zeros(shape, dtype=np.float32)
        receptive = math.prod(shape[:-2])
        limit = np.sqrt(6 / (receptive * (shape[-2] + shape[-1])))
        return generator.uniform(-limit, limit, shape).astype(np.float32)

    return flatten([draw(shape) for shape in shapes])


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Returns (n, 1) for one logit, the probability of the positive class; else (n, num_classes)."""
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def predict(definition: ModelDefinition, weights: Vector, features: Inputs) -> NDArray[np.float64]:
    """Returns probabilities for encoded records: float64 (n,) for two classes, else (n, num_classes)."""
    model, lock = _shared_model(definition)
    with lock:
        model.set_weights(unflatten(weights, [tuple(weight.shape) for weight in model.trainable_variables]))
        parts = [
            probabilities(model(tf.constant(dense_rows(features, slice(start, start + ROWS))))).numpy()
            for start in range(0, max(features.shape[0], 1), ROWS)
        ]
    scores: NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    return scores[:, 0] if definition.num_logits == 1 else scores


def forget_model() -> None:
    """Drops the models that `predict` keeps."""
    _shared_model.cache_clear()


@lru_cache(maxsize=8)
def _shared_model(definition: ModelDefinition) -> tuple[tf.keras.Model, threading.Lock]:
    # All clients of the process share the variables; one predicts at a time.
    return build_model(definition), threading.Lock()
