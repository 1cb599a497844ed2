"""Local training behind one interface: which code clips is a matter of speed, never of privacy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.transform import Inputs
from fedpipe.errors import ConfigError, PrivacyError, nearest
from fedpipe.learning.definition import ModelDefinition
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

    Raises:
      PrivacyError: if a step would go without its noise or without a usable bound.
    """

    weights: Vector
    features: Inputs
    labels: NDArray[np.int32]
    batches: Sequence[NDArray[np.int32]]
    noise: NDArray[np.float32]
    clipping_norm: float | None
    local_step_size: float

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


class Kernel(Protocol):
    """Runs local DP-SGD steps; one compiled kernel serves all clients of a process."""

    def noisy_sums(self, task: LocalTask) -> Vector:
        """Returns the sum over local steps of (clipped gradient sum + noise): float32 (num_parameters,).

        Each step starts from the weights that the earlier ones led to:
        w_k = w_0 - local_step_size * (sum of the first k noisy sums). A gradient that is not
        finite counts as zero.
        """


@lru_cache(maxsize=8)
def make_kernel(name: str, definition: ModelDefinition) -> Kernel:
    """Returns the process-wide kernel of that name for that architecture, compiled on first use.

    Raises:
      ConfigError: for an unknown name.
    """
    if name == "book_keeping":
        from fedpipe.learning.book_keeping_kernel import book_keeping_kernel

        return book_keeping_kernel(definition)
    if name == "tensorflow_privacy":
        from fedpipe.learning.tensorflow_privacy_kernel import tensorflow_privacy_kernel

        return tensorflow_privacy_kernel(definition)
    known = ("book_keeping", "tensorflow_privacy")
    raise ConfigError(f"Expected a known training.kernel, found {name!r}. {nearest(name, known)}")
