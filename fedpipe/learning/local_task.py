"""One client's work in one round, as every kernel takes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.inputs import Inputs
from fedpipe.errors import ConfigError, PrivacyError
from fedpipe.learning.definition import LocalOptimizerName
from fedpipe.learning.vectors import Vector


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LocalTask:
    """One client's work in one round. Everything private was drawn by the caller; its repr shows nothing.

    Attributes:
      weights: float32 (num_parameters,), the round's starting point.
      features: float32 (n, num_features), sparse or not; labels: int32 (n,), class numbers.
      batches: for each local step, int32 row numbers (Poisson-sampled; may be empty).
      noise: float32 (local_steps, num_parameters), added to each step's clipped sum.
      clipping_norm: L2 bound of each example's gradient; None does not clip (not private).
      local_step_size: what a step moves the local weights by, per unit of noisy sum.
      example_weights: float32 (n,) in [0, 1], or None for ones. It multiplies an example's gradient
        *before* clipping, so the bound holds for any weights; each must depend on its own record alone.
      proximal_mu: FedProx's pull back to the round's starting point (Li et al. 2020, arXiv:1812.06127),
        per unit of noisy *sum*: the paper's mu, which goes with mean gradients, times the expected
        batch size.
      max_records: how many consecutive entries of a batch are one unit: their gradients add up before
        they are clipped. With more than 1, an entry -1 - r stands for record r without weight: a unit of
        fewer records is padded with its own, whose values decide for no other unit.
      optimizer: what moves the local weights. With adam, `local_step_size` is about what a weight moves by.

    Raises:
      PrivacyError: if a step would go without its noise or without a usable bound.
      ConfigError: if the weights do not fit the records, or the pull would overshoot.
    """

    weights: Vector
    features: Inputs
    labels: NDArray[np.int32]
    batches: Sequence[NDArray[np.int32]]
    noise: NDArray[np.float32]
    clipping_norm: float | None
    local_step_size: float
    example_weights: NDArray[np.float32] | None = None
    proximal_mu: float = 0.0
    max_records: int = 1
    optimizer: LocalOptimizerName = "sgd"

    def __post_init__(self) -> None:
        expected = (len(self.batches), len(self.weights))
        if self.noise.shape != expected:
            raise PrivacyError(
                f"Expected noise of shape {expected}, found {self.noise.shape}: one row for each step."
            )
        if self.clipping_norm is not None and not 0 < self.clipping_norm < math.inf:
            raise PrivacyError(
                f"Expected a finite clipping_norm={self.clipping_norm} > 0; None does not clip."
            )
        if self.max_records < 1 or any(len(batch) % self.max_records for batch in self.batches):
            raise PrivacyError(
                f"Expected batches of units with max_records={self.max_records} entries each, found others."
            )
        _check_example_weights(self.example_weights, len(self.labels))
        if self.proximal_mu and self.optimizer != "sgd":
            raise ConfigError(f"Expected no pull with optimizer={self.optimizer}: it goes with plain steps.")
        if not 0 <= self.proximal_mu * self.local_step_size <= 1:
            raise ConfigError(
                f"Expected 0 <= proximal_mu * local_step_size <= 1, found {self.proximal_mu:g} * "
                f"{self.local_step_size:g}: a stronger pull overshoots the point that it pulls to."
            )


def _check_example_weights(weights: NDArray[np.float32] | None, num_examples: int) -> None:
    if weights is None:
        return
    if weights.shape != (num_examples,):
        # Sizes are private: the message names none.
        raise ConfigError("Expected one example weight for each record, found another number.")
    if not ((weights >= 0) & (weights <= 1)).all():
        raise ConfigError("Expected example weights in [0, 1], found others: scale them at the client.")
