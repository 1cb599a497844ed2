"""Sums over a batch in chunks, which bound what per-example gradients take of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from fedpipe.learning.chunk_sizes import CHUNK
from fedpipe.learning.tensorflow_runtime import tf

# (features (n, num_features), labels (n,), example weights (n,), clipping norm ()) -> clipped sum
# (num_parameters,), at the present values of the model's variables.
ClippedSum: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
# The same for units of so many consecutive examples, which are clipped as one.
MakeClippedSum: TypeAlias = Callable[[int], ClippedSum]


def in_chunks(clipped_sum: ClippedSum, num_parameters: int, *, size: int = CHUNK) -> ClippedSum:
    """Returns a function that adds `clipped_sum` up over chunks of `size` examples of the batch."""

    def chunked(
        features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        num_examples = tf.shape(labels)[0]

        def body(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            chunk = slice(start, tf.minimum(start + size, num_examples))
            part = clipped_sum(features[chunk], labels[chunk], example_weights[chunk], clipping_norm)
            return start + size, total + part

        start = (tf.constant(0), tf.zeros([num_parameters]))
        return tf.while_loop(lambda start, _: start < num_examples, body, start, parallel_iterations=1)[1]

    return chunked
