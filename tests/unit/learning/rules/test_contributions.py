"""Norms are those of what is released, also where positions cancel."""

from __future__ import annotations

import numpy as np

from fedpipe.learning.rules.contributions import Clipping, Rows, clip_and_sum, join, matrix_over_positions
from fedpipe.learning.tensorflow_runtime import tf


def test_norm_holds_where_positions_cancel() -> None:
    # Two positions of length 1e4 whose sum is (1, 0): the Gram trick loses that in float32.
    a = tf.constant([[[1e4, 1e4], [1 - 1e4, -1e4]]])
    part = matrix_over_positions(a, tf.ones([1, 2, 1]))
    np.testing.assert_allclose(part.squared_norms().numpy(), [1.0], rtol=1e-6)


def test_repeated_rows_of_a_table_add_up_before_they_are_squared() -> None:
    first = Rows(ids=tf.constant([[2, 0, 2]]), d=tf.constant([[[1.0], [5.0], [2.0]]]), num_rows=4)
    np.testing.assert_allclose(first.squared_norms().numpy(), [3**2 + 5**2])
    both = join(first, Rows(ids=tf.constant([[0]]), d=tf.constant([[[-5.0]]]), num_rows=4))
    np.testing.assert_allclose(both.squared_norms().numpy(), [3**2], atol=1e-5)
    np.testing.assert_allclose(both.per_example().numpy(), [[0, 0, 3, 0]])


def test_examples_that_are_not_finite_are_silent_and_others_are_clipped() -> None:
    values = tf.constant([[3.0, 4.0], [np.inf, 0.0], [0.3, 0.4]])

    def make_sum(clipping: Clipping) -> tf.Tensor:
        return tf.reduce_sum(clipping.scale(values), axis=0)

    total = clip_and_sum(tf.reduce_sum(values**2, axis=1), tf.constant(1.0), make_sum)
    np.testing.assert_allclose(total.numpy(), [0.6 + 0.3, 0.8 + 0.4], rtol=1e-6)
