"""XLA in place of TensorFlow's own graphs, for one chunk of a batch: an option for accelerators.

XLA compiles for one size of its inputs, and Poisson batches have many. So a chunk is filled up with
records without weight to one of few sizes. Their gradients are zero, whatever clipping makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from fedpipe.learning.chunks import ClippedSum
from fedpipe.learning.rules import without_own_kernels
from fedpipe.learning.tensorflow_runtime import tf

STEPS_TO_DOUBLE = 8  # sizes between one power of two and the next: at most an eighth is filled up
SMALLEST = 8

# Returns the function that was given, compiled in some way, for units of so many consecutive examples.
Compile: TypeAlias = Callable[[ClippedSum, int], ClippedSum]


def as_graph(clipped_sum: ClippedSum, max_records: int) -> ClippedSum:
    """Returns `clipped_sum`, which becomes a part of the graph that calls it."""
    del max_records
    return clipped_sum


def by_xla(clipped_sum: ClippedSum, max_records: int) -> ClippedSum:
    """Returns `clipped_sum` compiled by XLA, once for each size that chunks are filled up to."""

    def traced(*batch: tf.Tensor) -> tf.Tensor:
        with without_own_kernels():
            return clipped_sum(*batch)

    compiled = tf.function(traced, autograph=False, jit_compile=True)

    def filled(
        features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        num_examples = tf.shape(labels)[0]
        missing = full_size(num_examples // max_records) * max_records - num_examples
        return compiled(
            tf.pad(features, [[0, missing], [0, 0]]),
            tf.pad(labels, [[0, missing]]),
            tf.pad(example_weights, [[0, missing]]),
            clipping_norm,
        )

    return filled


def full_size(num_units: tf.Tensor) -> tf.Tensor:
    """Returns the smallest size that chunks are filled up to and that holds `num_units`."""
    above = tf.while_loop(lambda size: size < num_units, lambda size: [2 * size], [tf.constant(SMALLEST)])[0]
    step = tf.maximum(above // (2 * STEPS_TO_DOUBLE), 1)
    return tf.maximum((num_units + step - 1) // step * step, SMALLEST)
