from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.xla import as_graph, by_xla, full_size


def weighed_sum(features: Any, labels: Any, example_weights: Any, clipping_norm: Any) -> Any:
    """Of no use with records that have no weight, and of another size."""
    del labels
    return clipping_norm * tf.linalg.matvec(features, example_weights, transpose_a=True)


def test_sizes_are_few_and_hold_their_units() -> None:
    sizes = np.array([int(full_size(tf.constant(count))) for count in range(600)])

    assert (sizes >= np.arange(600)).all()
    assert (sizes <= np.maximum(9 / 8 * np.arange(600) + 1, 8)).all()
    assert len(set(sizes)) < 60


@pytest.mark.parametrize("num_examples", [0, 1, 7, 9, 130])
@pytest.mark.parametrize("max_records", [1, 5])
def test_records_that_fill_up_add_nothing(num_examples: int, max_records: int) -> None:
    generator = np.random.default_rng(0)
    count = num_examples * max_records
    features = generator.random((count, 3)).astype(np.float32)
    example_weights = generator.random(count).astype(np.float32)

    batch = (features, np.zeros(count, np.int32), example_weights, np.float32(2.0))
    found = by_xla(weighed_sum, max_records)(*map(tf.constant, batch))

    np.testing.assert_allclose(found, 2 * example_weights @ features, rtol=1e-5)


def test_units_stay_whole() -> None:
    sizes = []

    def note(features: Any, labels: Any, example_weights: Any, clipping_norm: Any) -> Any:
        sizes.append(labels.shape[0])
        return weighed_sum(features, labels, example_weights, clipping_norm)

    by_xla(note, 7)(tf.zeros([21, 2]), tf.zeros([21], tf.int32), tf.ones([21]), tf.constant(1.0))

    assert sizes == [8 * 7]


@pytest.mark.parametrize(("compiled", "expected"), [(by_xla, True), (as_graph, False)])
def test_xla_compiles_what_it_is_given(compiled: Any, expected: bool) -> None:
    batch = (tf.zeros([3, 2]), tf.zeros([3], tf.int32), tf.ones([3]), tf.constant(1.0))
    graph = tf.function(compiled(weighed_sum, 1)).get_concrete_function(*batch).graph

    assert any("_XlaMustCompile" in op.node_def.attr for op in graph.get_operations()) == expected
