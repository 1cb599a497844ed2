"""What every kernel must do where a user is clipped, not a record: her gradients add up first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedpipe.errors import PrivacyError
from fedpipe.learning import ModelDefinition
from fedpipe.learning.kernel import Kernel, make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from tests.contract.test_kernels import (
    DEFINITIONS,
    KERNELS,
    MODELS,
    NUM_FEATURES,
    Rows,
    assert_close,
    clip,
    define,
    gradient,
    make_task,
)

layers = tf.keras.layers
PADS = -1  # -1 - r is record r without weight


def tokens(definition: ModelDefinition) -> tf.keras.Model:
    """Rows of a table that several records of a user look up: they add up before they are squared."""
    inputs = layers.Input((definition.num_features,))
    ids = tf.cast(tf.clip_by_value(tf.abs(inputs) * 2, 0, 3), tf.int32)
    embedded = layers.Embedding(4, 2)(ids)
    return tf.keras.Model(inputs, layers.Dense(definition.num_logits)(layers.Flatten()(embedded)))


CHOSEN = ("logistic_regression-2", "mlp-10", "wide_and_deep-text", "convolution", "shared_layer")
ALL = {name: MODELS[name] for name in CHOSEN} | {"tokens": define("custom", 2, builder=f"{__name__}:tokens")}


@pytest.fixture(params=KERNELS, scope="module")
def kernel_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(ALL.values()), ids=list(ALL), scope="module")
def definition(request: pytest.FixtureRequest) -> ModelDefinition:
    assert isinstance(request.param, ModelDefinition)
    return request.param


@pytest.fixture(scope="module")
def kernel(kernel_name: str, definition: ModelDefinition) -> Kernel:
    return make_kernel(kernel_name, definition)


def padded(users: Rows, max_records: int) -> list[int]:
    """Returns the entries of a batch: each user's records, then as many without weight as are missing."""
    return [entry for rows in users for entry in (rows + [PADS - rows[0]] * max_records)[:max_records]]


def users_task(definition: ModelDefinition, users: Rows, max_records: int = 3, **changes: Any) -> LocalTask:
    return make_task(definition, [padded(users, max_records)], max_records=max_records, **changes)


def reference(definition: ModelDefinition, task: LocalTask, users: Rows) -> NDArray[np.float64]:
    """Returns the clipped sum from gradients of one record at a time, by no code of the kernels."""
    norm = np.inf if task.clipping_norm is None else task.clipping_norm
    totals = [sum(gradient(definition, task, task.weights, row) for row in rows) for rows in users]
    return np.sum([clip(np.asarray(total), norm) for total in totals], axis=0)


USERS: Rows = [[0, 3, 5], [8], [13, 21], [2, 2, 4], [34]]


@pytest.mark.parametrize("clipping_norm", [0.05, 0.7, None])
def test_sum_is_that_of_one_user_at_a_time(
    kernel: Kernel, definition: ModelDefinition, clipping_norm: float | None
) -> None:
    task = users_task(definition, USERS, clipping_norm=clipping_norm)
    found, expected = kernel.noisy_sums(task), reference(definition, task, USERS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_many_users_are_summed_in_chunks(kernel: Kernel, definition: ModelDefinition) -> None:
    users: Rows = [[row, (7 * row) % 150] if row % 3 else [row] for row in range(70)]
    task = users_task(definition, users)
    assert_close(kernel.noisy_sums(task), reference(definition, task, users))


@pytest.mark.parametrize("name", ["mlp-10", "convolution"])
def test_a_user_with_more_records_than_a_chunk_holds_is_one_user(kernel_name: str, name: str) -> None:
    definition = MODELS[name]
    kernel = make_kernel(kernel_name, definition)
    users: Rows = [list(range(70)), [80, 81]]
    task = users_task(definition, users, max_records=70)
    assert_close(kernel.noisy_sums(task), reference(definition, task, users))


def test_one_record_for_each_user_is_the_sum_over_records(
    kernel: Kernel, definition: ModelDefinition
) -> None:
    rows = list(range(40))
    by_user = users_task(definition, [[row] for row in rows])
    assert_close(kernel.noisy_sums(by_user), kernel.noisy_sums(make_task(definition, [rows])))


def test_a_user_of_fifty_extreme_records_moves_the_sum_by_the_clipping_norm_at_most(kernel_name: str) -> None:
    definition = define("logistic_regression", 2)
    kernel = make_kernel(kernel_name, definition)
    others: Rows = [[row, row + 50] for row in range(50, 60)]
    hers = list(range(50))
    features = np.random.default_rng(1).normal(size=(150, NUM_FEATURES)).astype(np.float32)
    features[hers] = 1e3  # all of them pull in one direction
    changes: dict[str, Any] = {"features": features, "labels": np.ones(150, np.int32), "clipping_norm": 0.4}
    changes["weights"] = np.zeros(7, np.float32)
    without = kernel.noisy_sums(users_task(definition, others, 50, **changes))
    with_her = kernel.noisy_sums(users_task(definition, [*others, hers], 50, **changes))
    assert np.linalg.norm(with_her.astype(float) - without) <= 0.4 * (1 + 1e-4)
    # A planted bug: her records drawn and clipped one by one.
    records = kernel.noisy_sums(make_task(definition, [hers], **changes))
    assert np.linalg.norm(records.astype(float)) > 40 * 0.4


def test_a_record_without_weight_adds_nothing_whatever_it_holds(
    kernel: Kernel, definition: ModelDefinition
) -> None:
    """Nor does it silence another user: what pads a user is her own."""
    task = users_task(definition, [[4], [6, 7]])
    expected = kernel.noisy_sums(task)
    other = users_task(definition, [[4], [6, 7], [9]])
    other.features[9] = 1e38 if definition is ALL["tokens"] else np.nan  # what is no number is no token
    alone = kernel.noisy_sums(users_task(definition, [[9]], features=other.features))
    assert_close(kernel.noisy_sums(other), expected.astype(float) + alone)


def test_example_weights_act_before_a_user_is_clipped(kernel: Kernel, definition: ModelDefinition) -> None:
    weights = np.random.default_rng(5).random(150).astype(np.float32)
    task = users_task(definition, USERS, example_weights=weights)
    assert_close(kernel.noisy_sums(task), reference(definition, task, USERS))


def test_sparse_records_of_users_give_the_same_sum(kernel: Kernel, definition: ModelDefinition) -> None:
    task = users_task(definition, USERS)
    features = np.where(np.abs(task.features) < 0.6, 0, task.features).astype(np.float32)
    full = kernel.noisy_sums(users_task(definition, USERS, features=features))
    sparse = users_task(definition, USERS, features=csr_matrix(features))
    np.testing.assert_array_equal(kernel.noisy_sums(sparse), full)


def test_several_steps_over_users_add_up(kernel: Kernel, definition: ModelDefinition) -> None:
    first, second = padded(USERS, 3), padded([[40, 41]], 3)
    both = kernel.noisy_sums(make_task(definition, [first, [], second], max_records=3))
    alone = [kernel.noisy_sums(make_task(definition, [batch], max_records=3)) for batch in (first, second)]
    assert_close(both, alone[0].astype(float) + alone[1])


@pytest.mark.parametrize("max_records", [0, -1, 2])
def test_batches_that_are_no_units_are_refused(max_records: int) -> None:
    with pytest.raises(PrivacyError, match="max_records"):
        make_task(DEFINITIONS[0], [[0, 1, 2]], max_records=max_records)


def test_cross_terms_left_out_are_seen() -> None:
    """A planted bug: norms of users as if their records' gradients were orthogonal."""
    definition = define("logistic_regression", 2)
    task = users_task(definition, USERS)
    norm = float(task.clipping_norm or 0)
    users = [np.stack([gradient(definition, task, task.weights, row) for row in rows]) for rows in USERS]
    bug = np.sum(
        [total.sum(axis=0) * min(1, norm / np.sqrt((total**2).sum())) for total in users],
        axis=0,
    )
    with pytest.raises(AssertionError):
        assert_close(bug.astype(np.float32), reference(definition, task, USERS))
