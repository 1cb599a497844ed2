"""What moves a client's weights between its noisy sums. It answers with the sums, whatever moves them.

So the noise of an answer is known, and its cost is that of the sums: where the next gradient is taken is
a function of noisy sums and public numbers. State begins anew in every round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fedpipe.learning.definition import LOCAL_MOMENTUM, LocalOptimizerName
from fedpipe.learning.tensorflow_runtime import tf

BETA_1, BETA_2, FLOOR = 0.9, 0.999, 1e-7

State: TypeAlias = tuple[tf.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class LocalOptimizer:
    """How far the weights are from the round's, all arrays float32 (num_parameters,).

    Attributes:
      num_arrays: of its state, all zero at first.
      moved: (total, state, step_size) -> the way from the round's weights.
      step: (state, gradient, step_size, number from 1) -> state. `gradient` is the newest noisy sum, without
        a pull: only plain steps have one.
    """

    num_arrays: int
    moved: Callable[[tf.Tensor, State, tf.Tensor], tf.Tensor]
    step: Callable[[State, tf.Tensor, tf.Tensor, tf.Tensor], State]


def make_local_optimizer(name: LocalOptimizerName) -> LocalOptimizer:
    """Returns the optimizer of that name."""
    return {"sgd": _SGD, "momentum": _MOMENTUM, "adam": _ADAM}[name]


def _no_step(state: State, gradient: tf.Tensor, step_size: tf.Tensor, number: tf.Tensor) -> State:
    return state


def _momentum_step(state: State, gradient: tf.Tensor, step_size: tf.Tensor, number: tf.Tensor) -> State:
    moved, velocity = state
    velocity = LOCAL_MOMENTUM * velocity + gradient
    return moved - step_size * velocity, velocity


def _adam_step(state: State, gradient: tf.Tensor, step_size: tf.Tensor, number: tf.Tensor) -> State:
    moved, mean, square = state
    count = tf.cast(number, tf.float32)
    mean = BETA_1 * mean + (1 - BETA_1) * gradient
    square = BETA_2 * square + (1 - BETA_2) * tf.square(gradient)
    scale = tf.sqrt(square / (1 - BETA_2**count)) + FLOOR
    return moved - step_size * mean / ((1 - BETA_1**count) * scale), mean, square


def _kept(total: tf.Tensor, state: State, step_size: tf.Tensor) -> tf.Tensor:
    return state[0]


# Plain steps need no state: they lead where the sum of all gradients says.
_SGD = LocalOptimizer(num_arrays=0, moved=lambda total, state, step_size: -step_size * total, step=_no_step)
_MOMENTUM = LocalOptimizer(num_arrays=2, moved=_kept, step=_momentum_step)
# Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1; `step_size` is what a weight moves by, in no other unit.
_ADAM = LocalOptimizer(num_arrays=3, moved=_kept, step=_adam_step)
