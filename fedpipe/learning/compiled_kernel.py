"""Local steps in one compiled function, shared by all clients of a process, whatever does the clipping.

Compiling per client costs 20 to 70 times a round; so weights, records, batches and noise are
arguments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedpipe.learning.architectures import build_model
from fedpipe.learning.chunk_sizes import ROWS
from fedpipe.learning.chunks import ClippedSum, MakeClippedSum, in_chunks
from fedpipe.learning.definition import LocalOptimizerName, ModelDefinition
from fedpipe.learning.handover import Records, is_read_by_batch, lend
from fedpipe.learning.local_optimizers import LocalOptimizer, make_local_optimizer
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector

NO_CLIPPING = 1e9  # far above any gradient, and finite: an infinite bound clips to NaN


class CompiledKernel:
    """Implements `Kernel` around a function that clips and sums."""

    def __init__(
        self, definition: ModelDefinition, make_clipped_sum: Callable[[tf.keras.Model], MakeClippedSum]
    ) -> None:
        model = build_model(definition)
        self._variables = model.trainable_variables
        self._sizes = [int(np.prod(variable.shape)) for variable in self._variables]
        # A variable is added to in place. As a value of the loop it would be a term of a long sum, which
        # TensorFlow 2.14 rewrites for large models in a way that fails in loops (tensorflow#37740).
        self._total = tf.Variable(tf.zeros([sum(self._sizes)]), trainable=False)
        self._make_clipped_sum = make_clipped_sum(model)
        # The variables are shared by all clients of the process; one runs at a time.
        self._lock = threading.Lock()
        self._records = Records()
        self._compiled: dict[tuple[int, str, bool, bool], Callable[..., tf.Tensor]] = {}
        self._signature = [
            tf.TensorSpec([sum(self._sizes)], tf.float32),
            tf.TensorSpec([None, definition.num_features], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, sum(self._sizes)], tf.float32),
            tf.TensorSpec([3], tf.float32),
        ]

    def noisy_sums(self, task: LocalTask) -> Vector:
        """Returns the accumulated noisy clipped sums; see `Kernel`."""
        offsets = np.cumsum([0, *(len(batch) for batch in task.batches)]).astype(np.int32)
        clipping_norm = NO_CLIPPING if task.clipping_norm is None else task.clipping_norm
        with self._lock, self._records.lent(task):
            is_long = any(len(batch) > ROWS for batch in task.batches)
            run = self._compiled_for(task.max_records, task.optimizer, is_long, is_read_by_batch(task))
            features, labels, weights, rows = self._records.of(task)
            total = run(
                lend(task.weights),
                features,
                tf.constant(labels),
                tf.constant(weights),
                tf.constant(rows),
                tf.constant(offsets),
                lend(task.noise),
                tf.constant([clipping_norm, task.local_step_size, task.proximal_mu], tf.float32),
            )
        return np.asarray(total.numpy(), dtype=np.float32)

    def _compiled_for(
        self, max_records: int, name: LocalOptimizerName, is_long: bool, is_read: bool
    ) -> Callable[..., tf.Tensor]:
        """Returns the steps, compiled.

        With `is_long` their batches are worked on in parts; with `is_read` what they need is read then.
        """
        key = (max_records, name, is_long, is_read)
        if key not in self._compiled:
            clipped_sum = self._make_clipped_sum(max_records)
            read = self._read if is_read else tf.gather

            def sum_of(features: tf.Tensor) -> ClippedSum:
                summed = _of_rows(clipped_sum, partial(read, features))
                units = max(ROWS // max_records, 1)
                return in_chunks(summed, sum(self._sizes), size=units * max_records) if is_long else summed

            steps = partial(self._steps, max_records, sum_of, make_local_optimizer(name))
            run: Any = tf.function(steps, autograph=False, input_signature=self._signature)
            # To call this and not `run` spares the check of every argument, 0.4 ms.
            self._compiled[key] = run.get_concrete_function()
        return self._compiled[key]

    def _steps(
        self,
        max_records: int,
        sum_of: Callable[[tf.Tensor], ClippedSum],
        optimizer: LocalOptimizer,
        weights: tf.Tensor,
        features: tf.Tensor,
        labels: tf.Tensor,
        example_weights: tf.Tensor,
        rows: tf.Tensor,
        offsets: tf.Tensor,
        noise: tf.Tensor,
        constants: tf.Tensor,
    ) -> tf.Tensor:
        clipping_norm, step_size, proximal_mu = tf.unstack(constants)
        clipped_sum = sum_of(features)

        def body(step: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            moved = optimizer.moved(self._total, state, step_size)
            self._assign(weights + moved)
            self._total.assign_add(proximal_mu * moved)
            batch = rows[offsets[step] : offsets[step + 1]]
            chosen, kept_weights = _weighed(batch, example_weights, max_records)
            clipped = clipped_sum(chosen, tf.gather(labels, chosen), kept_weights, clipping_norm)
            noisy = clipped + noise[step]
            self._total.assign_add(noisy)
            return step + 1, *optimizer.step(state, noisy, step_size, step + 1)

        num_steps = tf.shape(offsets)[0] - 1
        self._total.assign(tf.zeros_like(weights))
        begin = (0, *[tf.zeros_like(weights)] * optimizer.num_arrays)
        tf.while_loop(lambda step, *_: step < num_steps, body, begin, parallel_iterations=1)
        return self._total.read_value()

    def _read(self, features: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Returns what `features` would hold in `rows`, from the records that are lent."""
        return tf.ensure_shape(tf.numpy_function(self._records.read, [rows], tf.float32), features.shape)

    def _assign(self, weights: tf.Tensor) -> None:
        parts = tf.split(weights, self._sizes)
        for variable, part in zip(self._variables, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))


def _of_rows(clipped_sum: ClippedSum, read: Callable[[tf.Tensor], tf.Tensor]) -> ClippedSum:
    """Returns `clipped_sum` with row numbers in place of features, which are read in the last moment."""

    def summed(
        rows: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        return clipped_sum(read(rows), labels, example_weights, clipping_norm)

    return summed


def _weighed(batch: tf.Tensor, example_weights: tf.Tensor, max_records: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rows of a batch and their weights: -1 - r is row r without weight."""
    if max_records == 1:
        return batch, tf.gather(example_weights, batch)
    absent = batch < 0
    rows = tf.where(absent, -1 - batch, batch)
    return rows, tf.where(absent, 0.0, tf.gather(example_weights, rows))
