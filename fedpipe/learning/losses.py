"""What training makes small, one number for each example."""

from __future__ import annotations

from fedpipe.learning.tensorflow_runtime import tf


def per_example_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy of each example: float32 (n,)."""
    if logits.shape[-1] == 1:
        target = tf.cast(labels, tf.float32)
        return tf.nn.sigmoid_cross_entropy_with_logits(target, logits[:, 0])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
