"""What every kernel of local DP-SGD must do, whatever computes the clipped sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedpipe.data.transform import InputGroup
from fedpipe.errors import ConfigError, PrivacyError
from fedpipe.learning import ModelDefinition, ModelSettings, TrainingSettings, compiled_kernel, handover
from fedpipe.learning.architectures import build_model, initial_weights
from fedpipe.learning.book_keeping_kernel import book_keeping_kernel, has_rules
from fedpipe.learning.kernel import Kernel, make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, flatten, unflatten

KERNELS = get_args(TrainingSettings.model_fields["kernel"].annotation)
NUM_FEATURES = 6
Rows = list[list[int]]
layers = tf.keras.layers


def define(kind: str, classes: int, *, hidden: tuple[int, ...] = (5, 3), **fields: Any) -> ModelDefinition:
    builder = fields.pop("builder", None)
    settings = ModelSettings.model_validate({"type": kind, "hidden_units": hidden, "builder": builder})
    return ModelDefinition(settings=settings, num_features=NUM_FEATURES, num_classes=classes, **fields)


def branches(definition: ModelDefinition) -> tf.keras.Model:
    """Plain dense layers in parallel, one without a bias."""
    inputs = layers.Input((definition.num_features,))
    left = layers.Dense(3, activation="tanh", use_bias=False)(inputs)
    right = layers.Dense(2, activation="relu")(inputs[:, 2:])
    joined = layers.Concatenate()([left, right, inputs[:, :1]])
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(joined))


def convolution(definition: ModelDefinition) -> tf.keras.Model:
    inputs = layers.Input((definition.num_features,))
    hidden = layers.Conv2D(2, 2, activation="tanh")(layers.Reshape((2, 3, 1))(inputs))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(layers.Flatten()(hidden)))


def shared_layer(definition: ModelDefinition) -> tf.keras.Model:
    """One layer called twice: its two gradients add up before they are clipped."""
    inputs = layers.Input((definition.num_features,))
    half = layers.Dense(3, activation="tanh")
    joined = layers.Concatenate()([half(inputs[:, :3]), half(inputs[:, 3:])])
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(joined))


def sequence(definition: ModelDefinition) -> tf.keras.Model:
    """A dense layer along a sequence: its gradient is a sum over positions."""
    inputs = layers.Input((definition.num_features,))
    hidden = layers.Dense(3, activation="tanh")(layers.Reshape((2, 3))(inputs))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(layers.Flatten()(hidden)))


def nested(definition: ModelDefinition) -> tf.keras.Model:
    """A model within the model: its layers are not the outer one's."""
    inputs = layers.Input((definition.num_features,))
    inner = tf.keras.Sequential([layers.Input((definition.num_features,)), layers.Dense(3, "tanh")])
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(inner(inputs)))


def regularized(definition: ModelDefinition) -> tf.keras.Model:
    """A constraint on the weights, which is no part of the loss that clipping knows."""
    inputs = layers.Input((definition.num_features,))
    hidden = layers.LayerNormalization()(layers.Dense(3, kernel_regularizer="l2")(inputs))
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(hidden))


TEXT = (InputGroup(kind="tabular", shape=(2,)), InputGroup(kind="text", shape=(4,)))
MODELS = {
    **{f"{kind}-{n}": define(kind, n) for kind in ("logistic_regression", "mlp") for n in (2, 10)},
    "wide_and_deep-table": define("wide_and_deep", 2),
    "wide_and_deep-text": define("wide_and_deep", 3, groups=TEXT),
    "branches": define("custom", 2, builder=f"{__name__}:branches"),
    **{
        builder.__name__: define("custom", 2, builder=f"{__name__}:{builder.__name__}")
        for builder in (convolution, shared_layer, sequence, nested, regularized)
    },
}
DEFINITIONS = list(MODELS.values())
NAMES = list(MODELS)


@pytest.fixture(params=KERNELS, scope="module")
def kernel_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=DEFINITIONS, ids=NAMES, scope="module")
def definition(request: pytest.FixtureRequest) -> ModelDefinition:
    assert isinstance(request.param, ModelDefinition)
    return request.param


@pytest.fixture(scope="module")
def kernel(kernel_name: str, definition: ModelDefinition) -> Kernel:
    return make_kernel(kernel_name, definition)


reference_model = lru_cache(build_model)
first_weights = lru_cache(initial_weights)


def make_task(definition: ModelDefinition, rows: Rows, **changes: Any) -> LocalTask:
    generator = np.random.default_rng(1)
    weights = first_weights(definition, 7)
    fields: dict[str, Any] = {
        "weights": (weights + 0.1 * generator.normal(size=weights.size)).astype(np.float32),
        "features": generator.normal(size=(150, NUM_FEATURES)).astype(np.float32),
        "labels": generator.integers(definition.num_classes, size=150).astype(np.int32),
        "batches": [np.array(batch, np.int32) for batch in rows],
        "noise": np.zeros((len(rows), weights.size), np.float32),
        "clipping_norm": 0.7,
        "local_step_size": 0.0,
    }
    return LocalTask(**{**fields, **changes})


def gradient(definition: ModelDefinition, task: LocalTask, weights: Vector, row: int) -> NDArray[np.float64]:
    """Returns one example's gradient from a model and a loss of its own: no code of the kernels."""
    model = reference_model(definition)
    model.set_weights(unflatten(weights, [tuple(weight.shape) for weight in model.weights]))
    losses = tf.keras.losses
    kind = losses.BinaryCrossentropy if definition.num_classes == 2 else losses.SparseCategoricalCrossentropy
    loss = kind(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(task.labels[row : row + 1, np.newaxis], model(task.features[row : row + 1]))
    parts = tape.gradient(value, model.trainable_variables)
    weight = 1.0 if task.example_weights is None else float(task.example_weights[row])
    return weight * flatten([tf.convert_to_tensor(part).numpy() for part in parts]).astype(np.float64)


def clip(vector: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    return vector * min(1.0, norm / max(float(np.linalg.norm(vector)), 1e-30))


def reference_sum(
    definition: ModelDefinition, task: LocalTask, weights: Vector, rows: list[int]
) -> NDArray[np.float64]:
    norm = np.inf if task.clipping_norm is None else task.clipping_norm
    parts = [clip(gradient(definition, task, weights, row), norm) for row in rows]
    return np.sum(parts, axis=0) if parts else np.zeros(weights.size)


def assert_close(found: Vector, expected: NDArray[Any]) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=3e-6)


def test_all_of_these_models_have_rules() -> None:
    assert all(has_rules(build_model(model)) for model in DEFINITIONS)


def test_logistic_gradient_by_hand(kernel_name: str) -> None:
    definition = define("logistic_regression", 2)
    features = np.array([[3, 0, 4, 0, 0, 0], [0, 0.5, 0, 0, 0, 0]], np.float32)
    task = make_task(
        definition,
        [[0, 1]],
        weights=np.zeros(7, np.float32),
        features=features,
        labels=np.array([1, 0], np.int32),
        clipping_norm=1.0,
    )
    # (sigmoid(0) - y) * (x, 1): the first of norm sqrt(26) / 2 is clipped, the second is not.
    first = np.array([-3, 0, -4, 0, 0, 0, -1]) / np.sqrt(26)
    second = np.array([0, 0.25, 0, 0, 0, 0, 0.5])
    assert_close(make_kernel(kernel_name, definition).noisy_sums(task), first + second)


@pytest.mark.parametrize("clipping_norm", [0.05, 0.7, 100.0, None])
def test_sum_is_that_of_independent_gradients(
    kernel: Kernel, definition: ModelDefinition, clipping_norm: float | None
) -> None:
    rows = [0, 3, 5, 8, 13, 21]
    task = make_task(definition, [rows], clipping_norm=clipping_norm)
    assert_close(kernel.noisy_sums(task), reference_sum(definition, task, task.weights, rows))


@pytest.mark.parametrize("is_sparse", [True, False], ids=["sparse", "stored"])
def test_records_read_batch_by_batch_make_the_same_sum(
    kernel: Kernel,
    definition: ModelDefinition,
    is_sparse: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is drawn of a large shard does not fit in memory; neither do its records."""
    task = make_task(definition, [[0, 3, 5, 8], [], [149, *range(1, 68)]], local_step_size=0.1)
    expected = kernel.noisy_sums(task)
    task.features.tofile(tmp_path / "features")
    stored = np.memmap(tmp_path / "features", np.float32, "r", shape=task.features.shape)
    monkeypatch.setattr(handover, "DRAWN_BYTES", 0)
    monkeypatch.setattr(compiled_kernel, "ROWS", 30)
    features = csr_matrix(task.features) if is_sparse else stored
    assert handover.is_read_by_batch(replace(task, features=features))
    assert_close(kernel.noisy_sums(replace(task, features=features)), expected)


def test_sum_is_that_of_one_example_at_a_time(kernel: Kernel, definition: ModelDefinition) -> None:
    rows = list(range(1, 68))  # more than a chunk of 64
    alone = [kernel.noisy_sums(make_task(definition, [[row]])).astype(np.float64) for row in rows]
    assert_close(kernel.noisy_sums(make_task(definition, [rows])), np.sum(alone, axis=0))


@pytest.mark.parametrize("clipping_norm", [1e-3, 0.3, 2.0])
def test_no_record_contributes_more_than_the_clipping_norm(
    kernel: Kernel, definition: ModelDefinition, clipping_norm: float
) -> None:
    features = np.random.default_rng(3).normal(size=(40, NUM_FEATURES)) * np.logspace(-3, 15, 40)[:, None]
    changes = {"features": features.astype(np.float32), "clipping_norm": clipping_norm}
    norms = [
        float(np.linalg.norm(kernel.noisy_sums(make_task(definition, [[row]], **changes)).astype(float)))
        for row in range(40)
    ]
    # float32 rounds; the certificate says so.
    assert max(norms) <= clipping_norm * (1 + 1e-6)
    assert max(norms) >= clipping_norm * (1 - 1e-5)


def test_removing_a_record_moves_one_step_by_at_most_the_clipping_norm(
    kernel: Kernel, definition: ModelDefinition
) -> None:
    rows = list(range(100))
    whole = kernel.noisy_sums(make_task(definition, [rows]))
    for row in (0, 63, 64, 99):
        less = kernel.noisy_sums(make_task(definition, [[r for r in rows if r != row]]))
        assert np.linalg.norm(whole.astype(float) - less) <= 0.7 + 1e-5


def test_empty_batch_returns_exactly_the_noise(kernel: Kernel, definition: ModelDefinition) -> None:
    size = first_weights(definition, 0).size
    noise = np.random.default_rng(2).normal(size=(1, size)).astype(np.float32)
    found = kernel.noisy_sums(make_task(definition, [[]], noise=noise))
    np.testing.assert_array_equal(found, noise[0])


def test_client_without_records_returns_exactly_the_noise(
    kernel: Kernel, definition: ModelDefinition
) -> None:
    size = first_weights(definition, 0).size
    noise = np.random.default_rng(2).normal(size=(2, size)).astype(np.float32)
    nothing = {"features": np.zeros((0, NUM_FEATURES), np.float32), "labels": np.zeros(0, np.int32)}
    found = kernel.noisy_sums(make_task(definition, [[], []], noise=noise, local_step_size=0.5, **nothing))
    np.testing.assert_array_equal(found, noise[0] + noise[1])


def test_noise_is_added_once_and_unscaled(kernel: Kernel, definition: ModelDefinition) -> None:
    size = first_weights(definition, 0).size
    noise = np.random.default_rng(2).normal(size=(1, size)).astype(np.float32)
    rows = [list(range(80))]
    quiet = kernel.noisy_sums(make_task(definition, rows))
    assert_close(kernel.noisy_sums(make_task(definition, rows, noise=noise)) - noise[0], quiet)


def test_local_steps_follow_the_documented_recurrence(kernel: Kernel, definition: ModelDefinition) -> None:
    rows: Rows = [[0, 1, 2], [], [2, 3], [4, 5, 6, 7]]
    size = first_weights(definition, 0).size
    noise = 0.1 * np.random.default_rng(2).normal(size=(len(rows), size)).astype(np.float32)
    task = make_task(definition, rows, noise=noise, local_step_size=0.3, clipping_norm=4.0)
    total = np.zeros(size)
    for batch, draw in zip(rows, noise, strict=True):
        weights = (task.weights - task.local_step_size * total).astype(np.float32)
        total += reference_sum(definition, task, weights, batch) + draw
    assert_close(kernel.noisy_sums(task), total)
    still = make_task(definition, rows, noise=noise, local_step_size=0.0, clipping_norm=4.0)
    assert np.abs(kernel.noisy_sums(still) - total).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_local_optimizers_move_the_weights_and_answer_with_the_sums_they_met(
    kernel_name: str, optimizer: str
) -> None:
    definition = DEFINITIONS[2]
    kernel = make_kernel(kernel_name, definition)
    rows: Rows = [[0, 1, 2], [], [2, 3], [4, 5, 6, 7]]
    size = first_weights(definition, 0).size
    noise = 0.1 * np.random.default_rng(2).normal(size=(len(rows), size)).astype(np.float32)
    changes = {"noise": noise, "local_step_size": 0.05, "clipping_norm": 4.0}
    task = make_task(definition, rows, optimizer=optimizer, **changes)
    here, total = task.weights.astype(np.float64), np.zeros(size)
    first, second = np.zeros(size), np.zeros(size)
    for number, (batch, draw) in enumerate(zip(rows, noise, strict=True), start=1):
        met = reference_sum(definition, task, here.astype(np.float32), batch) + draw
        total += met
        if optimizer == "momentum":
            first = 0.9 * first + met
            here = here - 0.05 * first
        else:
            first, second = 0.9 * first + 0.1 * met, 0.999 * second + 0.001 * met**2
            here = here - 0.05 * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-7)
    np.testing.assert_allclose(kernel.noisy_sums(task), total, rtol=2e-3, atol=2e-4)
    assert np.abs(kernel.noisy_sums(make_task(definition, rows, **changes)) - total).max() > 1e-2


def test_local_optimizers_have_no_proximal_pull() -> None:
    with pytest.raises(ConfigError, match="plain steps"):
        make_task(DEFINITIONS[0], [[0]], optimizer="adam", proximal_mu=0.1)


@pytest.mark.parametrize("clipping_norm", [0.05, 0.7, None])
def test_example_weights_scale_gradients_before_they_are_clipped(
    kernel: Kernel, definition: ModelDefinition, clipping_norm: float | None
) -> None:
    rows = list(range(66))
    weights = np.random.default_rng(5).random(150).astype(np.float32)
    weights[:4] = (0, 1, 1e-6, 0.5)
    task = make_task(definition, [rows], clipping_norm=clipping_norm, example_weights=weights)
    expected = reference_sum(definition, task, task.weights, rows)
    # Without a bound the entries are large, and XLA adds them in another order.
    atol = max(3e-6, 1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(kernel.noisy_sums(task), expected, rtol=1e-4, atol=atol)


def test_example_weights_of_one_change_nothing(kernel: Kernel, definition: ModelDefinition) -> None:
    rows: Rows = [[3, 4], [], [5]]
    ones = make_task(definition, rows, local_step_size=0.3, example_weights=np.ones(150, np.float32))
    without = make_task(definition, rows, local_step_size=0.3)
    np.testing.assert_array_equal(kernel.noisy_sums(ones), kernel.noisy_sums(without))


def test_weight_of_zero_silences_even_a_record_without_a_finite_gradient(
    kernel: Kernel, definition: ModelDefinition
) -> None:
    task = make_task(definition, [[4, 5, 6]], example_weights=np.zeros(150, np.float32))
    task.features[5] = np.inf
    assert not kernel.noisy_sums(task).any()


@pytest.mark.parametrize("local_step_size", [0.0, 0.3])
def test_proximal_pull_follows_the_documented_recurrence(
    kernel: Kernel, definition: ModelDefinition, local_step_size: float
) -> None:
    rows: Rows = [[0, 1, 2], [], [2, 3], [4, 5, 6, 7]]
    size = first_weights(definition, 0).size
    noise = 0.1 * np.random.default_rng(2).normal(size=(len(rows), size)).astype(np.float32)
    changes = {"noise": noise, "local_step_size": local_step_size, "clipping_norm": 4.0}
    task = make_task(definition, rows, proximal_mu=1.5, **changes)
    here, total = task.weights.astype(np.float64), np.zeros(size)
    for batch, draw in zip(rows, noise, strict=True):
        step = reference_sum(definition, task, here.astype(np.float32), batch) + draw
        step += 1.5 * (here - task.weights)
        here, total = here - local_step_size * step, total + step
    assert_close(kernel.noisy_sums(task), total)
    free = kernel.noisy_sums(make_task(definition, rows, **changes))
    assert (np.abs(free - total).max() > 1e-2) == (local_step_size > 0)


def test_proximal_pull_of_a_single_step_is_zero(kernel: Kernel, definition: ModelDefinition) -> None:
    pulled = make_task(definition, [[1, 2, 3]], local_step_size=0.3, proximal_mu=2.0)
    free = make_task(definition, [[1, 2, 3]], local_step_size=0.3)
    np.testing.assert_array_equal(kernel.noisy_sums(pulled), kernel.noisy_sums(free))


@pytest.mark.parametrize("mu", [-0.1, 3.5, np.nan, np.inf])
def test_proximal_pull_that_overshoots_is_refused(mu: float) -> None:
    with pytest.raises(ConfigError, match="proximal_mu"):
        make_task(DEFINITIONS[0], [[0]], proximal_mu=mu, local_step_size=0.3)


@pytest.mark.parametrize("weights", [np.ones(149), np.ones((150, 1)), np.full(150, -0.1), np.full(150, 1.1)])
def test_example_weights_that_do_not_fit_are_refused(weights: NDArray[np.float64]) -> None:
    with pytest.raises(ConfigError, match="example weight"):
        make_task(DEFINITIONS[0], [[0]], example_weights=weights.astype(np.float32))


def test_example_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="example weight"):
        make_task(DEFINITIONS[0], [[0]], example_weights=np.full(150, np.nan, np.float32))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38, -3e38])
def test_record_without_a_finite_gradient_contributes_nothing(
    kernel: Kernel, definition: ModelDefinition, value: float
) -> None:
    rows = list(range(70))
    task = make_task(definition, [[row for row in rows if row != 5]])
    expected = kernel.noisy_sums(task)
    features = task.features.copy()
    features[5] = value
    broken = make_task(definition, [rows], features=features)
    if not np.isfinite(gradient(definition, broken, broken.weights, 5).astype(np.float32)).all():
        assert_close(kernel.noisy_sums(broken), expected)
    alone = kernel.noisy_sums(make_task(definition, [[5]], features=features))
    assert np.isfinite(alone).all()
    assert np.linalg.norm(alone) <= 0.7 * (1 + 1e-6)
    assert_close(kernel.noisy_sums(broken), expected.astype(float) + alone)


@pytest.mark.parametrize("clipping_norm", [0.7, None])
@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])
def test_overflowing_norm_contributes_nothing(
    kernel_name: str, value: float, clipping_norm: float | None
) -> None:
    definition = define("logistic_regression", 2)
    features = np.full((1, NUM_FEATURES), value, np.float32)
    changes = {"features": features, "labels": np.ones(1, np.int32), "clipping_norm": clipping_norm}
    task = make_task(definition, [[0]], weights=np.zeros(7, np.float32), **changes)
    assert not make_kernel(kernel_name, definition).noisy_sums(task).any()


def test_diverged_weights_return_the_noise(kernel: Kernel, definition: ModelDefinition) -> None:
    size = first_weights(definition, 0).size
    noise = np.ones((1, size), np.float32)
    weights = np.full(size, np.nan, np.float32)
    found = kernel.noisy_sums(make_task(definition, [[0, 1]], weights=weights, noise=noise))
    np.testing.assert_array_equal(found, noise[0])


def test_repeated_row_counts_twice(kernel: Kernel, definition: ModelDefinition) -> None:
    once = kernel.noisy_sums(make_task(definition, [[4]]))
    other = kernel.noisy_sums(make_task(definition, [[9]]))
    assert_close(kernel.noisy_sums(make_task(definition, [[4, 9, 4]])), 2.0 * once + other)


def test_kernels_of_different_models_do_not_interfere(kernel_name: str) -> None:
    tasks = [(define("mlp", 2, hidden=hidden), [[0, 1, 2]]) for hidden in ((5, 3), (4,), (5, 3, 2))]
    before = [make_kernel(kernel_name, model).noisy_sums(make_task(model, rows)) for model, rows in tasks]
    after = [make_kernel(kernel_name, model).noisy_sums(make_task(model, rows)) for model, rows in tasks]
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
    assert len({vector.size for vector in before}) == 3


def test_clients_in_threads_do_not_see_each_others_weights(kernel_name: str) -> None:
    definition = define("mlp", 2)
    kernel = make_kernel(kernel_name, definition)
    size = first_weights(definition, 0).size
    tasks = [
        make_task(definition, [[0, 1, 2]] * 20, weights=np.full(size, n % 4, np.float32)) for n in range(40)
    ]
    expected = [kernel.noisy_sums(task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        for found, alone in zip(pool.map(kernel.noisy_sums, tasks), expected, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_sparse_records_give_the_same_sum(kernel: Kernel, definition: ModelDefinition) -> None:
    rows: Rows = [[7, 3, 7], [], [149, 0, 3]]
    task = make_task(definition, rows, local_step_size=0.2)
    features = np.where(np.abs(task.features) < 0.6, 0, task.features).astype(np.float32)
    full = kernel.noisy_sums(make_task(definition, rows, local_step_size=0.2, features=features))
    sparse = make_task(definition, rows, local_step_size=0.2, features=csr_matrix(features))
    np.testing.assert_array_equal(kernel.noisy_sums(sparse), full)


def test_task_leaves_nothing_behind(kernel: Kernel, definition: ModelDefinition) -> None:
    task = make_task(definition, [[0, 1], [2]], local_step_size=0.5)
    first = kernel.noisy_sums(task)
    size = task.weights.size
    kernel.noisy_sums(make_task(definition, [[3]], weights=np.full(size, 9, np.float32)))
    np.testing.assert_array_equal(kernel.noisy_sums(task), first)


def test_one_kernel_serves_all_clients_and_is_compiled_once(
    kernel_name: str, definition: ModelDefinition
) -> None:
    kernel = make_kernel(kernel_name, definition)
    assert make_kernel(kernel_name, definition) is kernel
    batches: list[Rows] = [[[0]], [list(range(130))], [[], []], [[1, 2], [3], [4]]]
    for rows in batches:
        kernel.noisy_sums(make_task(definition, rows, clipping_norm=float(len(rows))))
    kernel.noisy_sums(make_task(definition, [[0]], clipping_norm=None))
    compiled = dict(vars(kernel)["_compiled"])
    kernel.noisy_sums(make_task(definition, [list(range(33))]))
    assert {key for key in compiled if key[0] == 1 and not any(key[2:])} == {(1, "sgd", False, False)}
    assert vars(kernel)["_compiled"] == compiled


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_large_model_is_trained_round_after_round(optimizer: str) -> None:
    """TensorFlow rewrites long sums of large arrays in loops, and then fails when it comes by again."""
    definition = define("mlp", 2, hidden=(3000, 3000))
    kernel = book_keeping_kernel(definition)
    weights = initial_weights(definition, seed=3)
    changes = {"noise": np.zeros((2, weights.size), np.float32), "optimizer": optimizer}
    task = make_task(definition, [[0, 1], [1]], weights=weights, **changes)

    first, second = kernel.noisy_sums(task), kernel.noisy_sums(task)

    assert first.any()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("max_records", [1, 2])
def test_batch_that_is_worked_on_in_parts_has_the_same_sum(kernel_name: str, max_records: int) -> None:
    definition = define("mlp", 2)
    whole = np.tile(np.arange(150, dtype=np.int32), 60)  # 9,000 rows
    kernel = make_kernel(kernel_name, definition)

    def summed(rows: NDArray[np.int32]) -> Vector:
        return kernel.noisy_sums(make_task(definition, [rows.tolist()], max_records=max_records))

    parts = [summed(part) for part in np.split(whole, 3)]

    np.testing.assert_allclose(summed(whole), np.sum(parts, axis=0), rtol=1e-4, atol=1e-3)


def test_step_without_its_noise_is_refused(definition: ModelDefinition) -> None:
    size = first_weights(definition, 0).size
    for shape in ((1, size), (3, size), (2, size - 1), (2, 1), (size,)):
        with pytest.raises(PrivacyError, match="Expected noise of shape"):
            make_task(definition, [[0], [1]], noise=np.zeros(shape, np.float32))


@pytest.mark.parametrize("clipping_norm", [0.0, -1.0, np.inf, np.nan])
def test_bound_that_bounds_nothing_is_refused(clipping_norm: float) -> None:
    with pytest.raises(PrivacyError, match="clipping_norm"):
        make_task(DEFINITIONS[0], [[0]], clipping_norm=clipping_norm)


def test_task_shows_no_record() -> None:
    assert "array" not in repr(make_task(DEFINITIONS[0], [[0]]))


def test_unknown_kernel_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="tensorflow_privacy"):
        make_kernel("tensorflow_privcy", DEFINITIONS[0])
