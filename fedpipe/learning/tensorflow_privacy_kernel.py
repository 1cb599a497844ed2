"""Clipping by TensorFlow Privacy, one unit (a record, or a user's records) at a time, mapped over chunks.

Abadi et al. 2016 (arXiv:1607.00133). TensorFlow Privacy's Keras optimizers retrace per model
and cost tens of times plain training; its `GaussianSumQuery` alone, mapped over examples inside
one `tf.function`, does not. Its noise is not cryptographic, so ours is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

from fedpipe.learning.chunk_sizes import CHUNK
from fedpipe.learning.chunks import ClippedSum, MakeClippedSum, in_chunks
from fedpipe.learning.compiled_kernel import CompiledKernel
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.probes import is_right
from fedpipe.learning.tensorflow_runtime import tf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow Probability, of an old packaging module
    from tensorflow_privacy import GaussianSumQuery


def tensorflow_privacy_kernel(definition: ModelDefinition) -> CompiledKernel:
    """Returns a kernel for any model whose examples do not mix. Chunks of examples bound its memory."""
    return CompiledKernel(definition, make_clipped_sum)


def make_clipped_sum(model: tf.keras.Model) -> MakeClippedSum:
    """Returns what makes functions that clip the gradient of each unit alone and add them up.

    Some operations cannot be mapped over examples (convolutions in groups, in TensorFlow 2.14):
    then one follows the other, slowly.
    """
    num_parameters = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    mapped = is_right(_clipped_sum(model, tf.vectorized_map, 1), model)
    chosen = partial(_clipped_sum, model, tf.vectorized_map if mapped else _one_by_one)

    def make(max_records: int) -> ClippedSum:
        size = max(CHUNK // max_records, 1) * max_records
        return in_chunks(chosen(max_records), num_parameters, size=size)

    return make


def _clipped_sum(model: tf.keras.Model, map_units: Callable[..., tf.Tensor], max_records: int) -> ClippedSum:
    variables = model.trainable_variables
    query = GaussianSumQuery(l2_norm_clip=1.0, stddev=0.0)

    def clipped_gradient(
        features: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = tf.reduce_sum(weights * per_example_loss(labels, model(features)))
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
        # The norm, not each entry: an overflowing norm would clip to zero or to NaN.
        finite = tf.math.is_finite(tf.norm(flat))
        flat = tf.where(finite, flat, tf.zeros_like(flat))
        return query.preprocess_record(clipping_norm, flat)

    def clipped_sum(
        features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        width = features.shape[1]
        gradients = map_units(
            lambda unit: clipped_gradient(unit[0], unit[1], unit[2], clipping_norm),
            (
                tf.reshape(features, [-1, max_records, width]),
                tf.reshape(labels, [-1, max_records]),
                tf.reshape(example_weights, [-1, max_records]),
            ),
        )
        return tf.reduce_sum(gradients, axis=0)

    return clipped_sum


def _one_by_one(function: Callable[..., tf.Tensor], units: tuple[tf.Tensor, ...]) -> tf.Tensor:
    return tf.map_fn(function, units, fn_output_signature=tf.float32)
