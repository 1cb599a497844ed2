"""Models by definition: their first weights, their losses, their answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.errors import DataError
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import initial_weights, predict
from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.tensorflow_runtime import tf


def define(kind: str = "logistic_regression", *, features: int = 3, classes: int = 2) -> ModelDefinition:
    settings = ModelSettings.model_validate({"type": kind, "hidden_units": (4,)})
    return ModelDefinition(settings=settings, num_features=features, num_classes=classes)


@pytest.mark.parametrize("classes", [2, 10])
def test_linear_model_starts_at_zero(classes: int) -> None:
    weights = initial_weights(define(classes=classes), seed=3)
    assert weights.tolist() == [0] * (4 * (1 if classes == 2 else classes))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    tf.random.set_seed(1)
    first = initial_weights(define("mlp"), seed=3)
    tf.random.set_seed(2)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(first, initial_weights(define("mlp"), seed=3))
    assert (first != initial_weights(define("mlp"), seed=4)).any()


def test_hidden_layers_start_with_glorot_weights_and_no_bias() -> None:
    weights = initial_weights(define("mlp"), seed=3)
    kernel, bias, last, last_bias = np.split(weights, [12, 16, 20])
    assert 0.1 < np.abs(kernel).max() <= np.sqrt(6 / 7)
    assert 0.1 < np.abs(last).max() <= np.sqrt(6 / 5)
    assert not bias.any()
    assert not last_bias.any()


def test_losses_by_hand() -> None:
    binary = per_example_loss(tf.constant([0, 1, 1]), tf.constant([[0.0], [0.0], [2.0]]))
    np.testing.assert_allclose(binary, [np.log(2), np.log(2), np.log1p(np.exp(-2))], rtol=1e-6)
    several = per_example_loss(tf.constant([2, 0]), tf.constant([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(several, [np.log(3), np.log(np.e + 2) - 1], rtol=1e-6)


def test_predictions_by_hand() -> None:
    features = np.array([[1, 0, 0], [0, 0, 0]], np.float32)
    weights = np.array([2, 0, 0, -1], np.float32)
    np.testing.assert_allclose(predict(define(), weights, features), 1 / (1 + np.exp([-1.0, 1.0])), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 10])
def test_no_records_get_no_predictions(classes: int) -> None:
    definition = define("mlp", classes=classes)
    scores = predict(definition, initial_weights(definition, 0), np.zeros((0, 3), np.float32))
    assert scores.shape == ((0,) if classes == 2 else (0, 10))


def test_class_probabilities_sum_to_one() -> None:
    definition = define("mlp", classes=10)
    features = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    scores = predict(definition, initial_weights(definition, 0), features)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(DataError, match="Expected a vector of 4 parameters, found 5"):
        predict(define(), np.zeros(5, np.float32), np.zeros((1, 3), np.float32))


def test_clients_in_threads_do_not_see_each_others_weights() -> None:
    definition = define(features=200)
    features = np.full((300, 200), 1 / 200, np.float32)

    def answer(logit: float) -> NDArray[np.float64]:
        return predict(definition, np.full(201, logit / 2, np.float32), features)

    logits = [float(number % 5 - 2) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for logit, scores in zip(logits, pool.map(answer, logits), strict=True):
            np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logit)), rtol=1e-5)
