"""DP-SGD steps with TensorFlow Privacy's clipping in one compiled function of ours.

Abadi et al. 2016 (arXiv:1607.00133). TensorFlow Privacy's Keras optimizers retrace per model
and cost tens of times plain training; its `GaussianSumQuery` alone, mapped over examples inside
one `tf.function`, does not. Its noise is not cryptographic, so ours is passed in.
"""

from __future__ import annotations

import threading

import numpy as np
from tensorflow_privacy import GaussianSumQuery

from fedpipe.learning.architectures import build_model, per_example_loss
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.kernel import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector

CHUNK = 64
NO_CLIPPING = 1e9  # far above any gradient, and finite: an infinite bound clips to NaN


class TensorFlowPrivacyKernel:
    """Works for any model whose examples do not mix. Chunks of examples bound its memory."""

    def __init__(self, definition: ModelDefinition) -> None:
        self._model = build_model(definition)
        self._variables = self._model.trainable_variables
        self._sizes = [int(np.prod(variable.shape)) for variable in self._variables]
        self._query = GaussianSumQuery(l2_norm_clip=1.0, stddev=0.0)
        # The variables are shared by all clients of the process; one runs at a time.
        self._lock = threading.Lock()
        vector = tf.TensorSpec([sum(self._sizes)], tf.float32)
        self._run = tf.function(
            self._steps,
            autograph=False,
            input_signature=[
                vector,
                tf.TensorSpec([None, definition.num_features], tf.float32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, sum(self._sizes)], tf.float32),
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([], tf.float32),
            ],
        )

    def noisy_sums(self, task: LocalTask) -> Vector:
        """Returns the accumulated noisy clipped sums; see `Kernel`."""
        offsets = np.cumsum([0, *(len(batch) for batch in task.batches)]).astype(np.int32)
        clipping_norm = NO_CLIPPING if task.clipping_norm is None else task.clipping_norm
        # TensorFlow copies what it is given: only the records that were drawn.
        drawn, rows = np.unique(np.concatenate([*task.batches, np.zeros(0, np.int32)]), return_inverse=True)
        with self._lock:
            total = self._run(
                task.weights,
                task.features[drawn],
                task.labels[drawn],
                rows.astype(np.int32),
                offsets,
                task.noise,
                clipping_norm,
                task.local_step_size,
            )
        return np.asarray(total.numpy(), dtype=np.float32)

    def _steps(
        self,
        weights: tf.Tensor,
        features: tf.Tensor,
        labels: tf.Tensor,
        rows: tf.Tensor,
        offsets: tf.Tensor,
        noise: tf.Tensor,
        clipping_norm: tf.Tensor,
        step_size: tf.Tensor,
    ) -> tf.Tensor:
        def body(step: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            self._assign(weights - step_size * total)
            batch = rows[offsets[step] : offsets[step + 1]]
            clipped = self._clipped_sum(tf.gather(features, batch), tf.gather(labels, batch), clipping_norm)
            return step + 1, total + clipped + noise[step]

        num_steps = tf.shape(offsets)[0] - 1
        _, total = tf.while_loop(
            lambda step, _: step < num_steps, body, (0, tf.zeros_like(weights)), parallel_iterations=1
        )
        return total

    def _assign(self, weights: tf.Tensor) -> None:
        parts = tf.split(weights, self._sizes)
        for variable, part in zip(self._variables, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))

    def _clipped_sum(self, features: tf.Tensor, labels: tf.Tensor, clipping_norm: tf.Tensor) -> tf.Tensor:
        num_examples = tf.shape(labels)[0]

        def body(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            chunk = slice(start, tf.minimum(start + CHUNK, num_examples))
            gradients = tf.vectorized_map(
                lambda example: self._clipped_gradient(example[0], example[1], clipping_norm),
                (features[chunk], labels[chunk]),
            )
            return start + CHUNK, total + tf.reduce_sum(gradients, axis=0)

        zeros = tf.zeros([sum(self._sizes)])
        _, total = tf.while_loop(
            lambda start, _: start < num_examples, body, (0, zeros), parallel_iterations=1
        )
        return total

    def _clipped_gradient(self, features: tf.Tensor, label: tf.Tensor, clipping_norm: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._variables)
            loss = per_example_loss(label[tf.newaxis], self._model(features[tf.newaxis]))[0]
        gradients = tape.gradient(loss, self._variables)
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
        # The norm, not each entry: an overflowing norm would clip to zero or to NaN.
        finite = tf.math.is_finite(tf.norm(flat))
        flat = tf.where(finite, flat, tf.zeros_like(flat))
        return self._query.preprocess_record(clipping_norm, flat)
