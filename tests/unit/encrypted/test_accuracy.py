"""Fixed-point arithmetic of 16 bits costs next to nothing: trained models answer as in plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.data.transform import InputGroup
from fedpipe.encrypted.client import probabilities
from fedpipe.encrypted.dense import Builder, DensePart, evaluate
from fedpipe.encrypted.tanh import COEFFICIENTS, KNOTS, MAX_ERROR, approximate
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import build_model
from fedpipe.learning.tensorflow_runtime import tf
from server.encrypted.export import dense_part

NUM_ROWS = 10_000
TIE = 1e-3  # labels of rows this close to a tie may differ
Floats = NDArray[np.float64]
Arithmetic = Callable[[DensePart, NDArray[Any]], Floats]


def tabular(num_rows: int, num_classes: int) -> tuple[Floats, NDArray[np.int64]]:
    """Numbers, one-hot columns and unit-length text, with labels that a network can learn."""
    generator = np.random.default_rng(2)
    numbers = generator.normal(0, 1, (num_rows, 6)).clip(-4, 4)
    one_hot = np.eye(20)[generator.integers(0, 20, num_rows)]
    text = (generator.random((num_rows, 64)) < 0.2).astype(float)
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1)
    inputs = np.concatenate([numbers, one_hot, text], axis=1)
    scores = np.tanh(inputs @ generator.normal(0, 1, (90, num_classes))) + generator.gumbel(
        0, 0.3, (num_rows, num_classes)
    )
    return inputs, scores.argmax(axis=1)


def pictures(num_rows: int, num_classes: int) -> tuple[Floats, NDArray[np.int64]]:
    generator = np.random.default_rng(2)
    labels = generator.integers(0, num_classes, num_rows)
    shapes = generator.random((num_classes, 64))
    blurred = (0.5 * shapes[labels] + 0.5 * generator.random((num_rows, 64))) * 255
    return np.round(blurred) / 255, labels


def train(kind: str) -> tuple[ModelDefinition, Any, Floats]:
    """Returns a trained model and inputs that it has not seen."""
    num_classes = 10 if kind == "cnn" else 2
    inputs, labels = (pictures if kind == "cnn" else tabular)(NUM_ROWS + 3000, num_classes)
    groups: tuple[InputGroup, ...] = (InputGroup(kind="image", shape=(8, 8, 1)),)
    if kind != "cnn":
        groups = (InputGroup(kind="tabular", shape=(26,)), InputGroup(kind="text", shape=(64,)))
    settings = ModelSettings(type=kind, hidden_units=(64, 16))  # type: ignore[arg-type]
    definition = ModelDefinition(
        settings=settings, num_features=inputs.shape[1], num_classes=num_classes, groups=groups
    )
    tf.keras.utils.set_random_seed(1)
    model = build_model(definition)
    losses = tf.keras.losses
    loss = losses.BinaryCrossentropy if num_classes == 2 else losses.SparseCategoricalCrossentropy
    model.compile("adam", loss(from_logits=True))
    model.fit(inputs[NUM_ROWS:], labels[NUM_ROWS:], epochs=5, batch_size=64, verbose=0)
    return definition, model, inputs[:NUM_ROWS]


@pytest.mark.parametrize("kind", ["logistic_regression", "mlp", "wide_and_deep", "cnn"])
def test_probabilities_and_labels_are_those_of_the_plain_model(
    kind: str, fixed_point_logits: Arithmetic
) -> None:
    definition, model, inputs = train(kind)
    part = dense_part(definition, model)
    plain = probabilities(model.predict(inputs, verbose=0, batch_size=4096).astype(np.float64))
    exact = probabilities(evaluate(part, inputs))
    np.testing.assert_allclose(exact, plain, atol=1e-5)
    found = probabilities(fixed_point_logits(part, inputs))
    assert np.abs(found - plain).max() <= 1e-3
    best = np.sort(plain, axis=1)
    clear = best[:, -1] - best[:, -2] > TIE
    agreement = (found.argmax(axis=1) == plain.argmax(axis=1))[clear].mean()
    assert agreement > 0.999
    assert clear.mean() > 0.9
    assert np.ptp(plain) > 0.5


def test_pieces_are_close_to_the_hyperbolic_tangent() -> None:
    points = np.linspace(-40, 40, 200_001)
    assert np.abs(approximate(points) - np.tanh(points)).max() < MAX_ERROR
    assert len(COEFFICIENTS) == len(KNOTS) + 1
    np.testing.assert_array_equal(approximate(-points[points > 6]), -approximate(points[points > 6]))
    assert (np.array(COEFFICIENTS) * 2**16 % 1 == 0).all()  # or fixed point would round them again


def test_pieces_in_fixed_point_stay_close(fixed_point_logits: Arithmetic) -> None:
    builder = Builder()
    builder.add_tanh(0)
    part = builder.build(1)
    points = np.linspace(-12, 12, 50_001)[:, np.newaxis]
    assert np.abs(fixed_point_logits(part, points) - np.tanh(points)).max() < 4 * MAX_ERROR


def test_test_of_accuracy_finds_a_coarser_approximation(fixed_point_logits: Arithmetic) -> None:
    """The straight pieces that are usual for shares are forty times too coarse."""
    builder = Builder()
    builder.add("tanh", 0, knots=[-1.0, 1.0], coefficients=[[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    points = np.linspace(-12, 12, 5_001)[:, np.newaxis]
    errors = np.abs(fixed_point_logits(builder.build(1), points) - np.tanh(points))
    assert errors.max() > 40 * MAX_ERROR
