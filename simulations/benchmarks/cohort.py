"""Clients one after the other, or several in one program; each as TensorFlow's graph and compiled by XLA.

All do the same arithmetic: DP-SGD of an MLP by book-keeping, without noise, on batches of one size, since XLA
compiles for one size. What wins here decides how the kernels go through a cohort.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.tensorflow_runtime import tf
from simulations.benchmarks.problems import CLIENT_BATCH, CLIPPING_NORM, LEARNING_RATE, clients
from simulations.benchmarks.turns import Summary, take_turns

COHORT = 20
TOGETHER = 10
LOCAL_STEPS = 6
WIDTHS = (700, 64, 16, 1)


def measure_cohort(*, turns: int) -> Summary:
    """Returns the contestants' medians for a round of all clients, on one thread."""
    return take_turns(make_contestants(), turns)


def make_contestants() -> dict[str, Callable[[], Callable[[], NDArray[np.float32]]]]:
    """Returns who takes part: each makes a run, which returns all clients' sums, (COHORT, num_parameters)."""
    return {
        f"{how}, {'XLA' if xla else 'graph'}": lambda size=size, xla=xla: _contestant(size, xla)  # type: ignore[misc]
        for xla in (False, True)
        for how, size in (("one client after the other", 1), (f"{TOGETHER} clients in one program", TOGETHER))
    }


def _contestant(size: int, xla: bool) -> Callable[[], NDArray[np.float32]]:
    """Returns a run over the cohort, `size` clients at a time."""
    drawn = [_batches(*records) for records in clients()[:COHORT]]
    features, labels = (np.stack(parts) for parts in zip(*drawn, strict=True))
    shape = (-1, LOCAL_STEPS, CLIENT_BATCH)
    groups = [
        (
            tf.constant(features[start : start + size].swapaxes(0, 1)),
            tf.constant(labels[start : start + size].reshape(shape).swapaxes(0, 1).astype(np.float32)),
        )
        for start in range(0, COHORT, size)
    ]
    steps: Any = tf.function(_steps, autograph=False, jit_compile=xla)

    def run() -> NDArray[np.float32]:
        return np.concatenate([steps(*group).numpy() for group in groups])

    return run


def _batches(
    features: NDArray[np.float32], labels: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rows = np.random.default_rng(1).permutation(len(labels))[: LOCAL_STEPS * CLIENT_BATCH]
    return features[rows].reshape(LOCAL_STEPS, CLIENT_BATCH, -1), labels[rows]


def _steps(features: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns each client's accumulated clipped sums: (c, num_parameters).

    Args:
      features: (LOCAL_STEPS, c, CLIENT_BATCH, width).
      labels: (LOCAL_STEPS, c, CLIENT_BATCH).
    """
    num_clients = features.shape[1]
    first = [tf.tile(layer[tf.newaxis], [num_clients, 1, 1]) for layer in _first_layers()]

    def body(step: tf.Tensor, *totals: tf.Tensor) -> tuple[tf.Tensor, ...]:
        size = LEARNING_RATE / CLIENT_BATCH
        layers = [layer - size * total for layer, total in zip(first, totals, strict=True)]
        sums = _clipped_sums(layers, features[step], labels[step])
        return step + 1, *(total + part for total, part in zip(totals, sums, strict=True))

    begin = (tf.constant(0), *map(tf.zeros_like, first))
    totals = tf.while_loop(lambda step, *_: step < LOCAL_STEPS, body, begin, parallel_iterations=1)[1:]
    return tf.concat([tf.reshape(total, [num_clients, -1]) for total in totals], axis=1)


def _first_layers() -> list[tf.Tensor]:
    """Returns a matrix for each layer, its biases in the last row."""
    generator = np.random.default_rng(0)
    return [
        tf.constant(generator.normal(0, above**-0.5, (above + 1, below)), tf.float32)
        for above, below in pairwise(WIDTHS)
    ]


def _clipped_sums(layers: list[tf.Tensor], features: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
    """Returns, for each layer, the sums of clipped gradients, (c, width above + 1, width below)."""
    inputs = [features]
    for layer in layers:
        outputs = tf.matmul(inputs[-1], layer[:, :-1]) + layer[:, -1:]
        inputs.append(tf.nn.relu(outputs))
    deltas = [tf.sigmoid(outputs) - labels[..., tf.newaxis]]
    for layer, known in zip(layers[:0:-1], inputs[-2:0:-1], strict=True):
        back = tf.matmul(deltas[0], layer[:, :-1], transpose_b=True)
        deltas.insert(0, tf.where(known > 0, back, 0.0))
    squared = tf.add_n(
        [
            (tf.reduce_sum(a * a, axis=-1) + 1) * tf.reduce_sum(d * d, axis=-1)
            for a, d in zip(inputs[:-1], deltas, strict=True)
        ]
    )
    factors = tf.minimum(1.0, CLIPPING_NORM * tf.math.rsqrt(tf.maximum(squared, 1e-30)))
    clipped = [delta * factors[..., tf.newaxis] for delta in deltas]
    return [
        tf.concat([tf.matmul(a, d, transpose_a=True), tf.reduce_sum(d, axis=-2, keepdims=True)], axis=-2)
        for a, d in zip(inputs[:-1], clipped, strict=True)
    ]
