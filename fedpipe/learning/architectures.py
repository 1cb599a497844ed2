"""Keras models by definition. They take model inputs and return logits."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, flatten, unflatten


def build_model(definition: ModelDefinition) -> tf.keras.Model:
    """Returns a new Keras model: float32 (n, num_features) -> logits (n, num_logits)."""
    inputs = tf.keras.Input((definition.num_features,), dtype=tf.float32)
    hidden = inputs
    if definition.settings.type == "mlp":
        for units in definition.settings.hidden_units:
            hidden = tf.keras.layers.Dense(units, activation="relu")(hidden)
    outputs = tf.keras.layers.Dense(definition.num_logits)(hidden)
    return tf.keras.Model(inputs, outputs)


def initial_weights(definition: ModelDefinition, seed: int) -> Vector:
    """Returns float32 (num_parameters,): zeros for a linear model, else Glorot uniform and zero biases.

    Glorot and Bengio 2010. Depends on `seed` alone, never on data.
    """
    generator = np.random.default_rng(seed)
    shapes = [tuple(weight.shape) for weight in build_model(definition).trainable_variables]
    linear = definition.settings.type == "logistic_regression"

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        if linear or len(shape) < 2:
            return np.zeros(shape, dtype=np.float32)
        limit = np.sqrt(6 / (shape[0] + shape[-1]))
        return generator.uniform(-limit, limit, shape).astype(np.float32)

    return flatten([draw(shape) for shape in shapes])


def per_example_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of each example: float32 (n,)."""
    if logits.shape[-1] == 1:
        target = tf.cast(labels, tf.float32)
        return tf.nn.sigmoid_cross_entropy_with_logits(target, logits[:, 0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Returns (n, 1) for one logit, the probability of the positive class; else (n, num_classes)."""
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def predict(
    definition: ModelDefinition, weights: Vector, features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Returns probabilities for encoded records: float64 (n,) for two classes, else (n, num_classes)."""
    model, lock = _shared_model(definition)
    with lock:
        model.set_weights(unflatten(weights, [tuple(weight.shape) for weight in model.weights]))
        scores: NDArray[np.float64] = probabilities(model(tf.constant(features))).numpy().astype(np.float64)
    return scores[:, 0] if definition.num_logits == 1 else scores


@lru_cache(maxsize=8)
def _shared_model(definition: ModelDefinition) -> tuple[tf.keras.Model, threading.Lock]:
    # All clients of the process share the variables; one predicts at a time.
    return build_model(definition), threading.Lock()
