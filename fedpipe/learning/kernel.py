"""Local training behind one interface: which code clips is a matter of speed, never of privacy."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from fedpipe.errors import ConfigError, nearest
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.vectors import Vector


class Kernel(Protocol):
    """Runs local DP-SGD steps; one compiled kernel serves all clients of a process."""

    def noisy_sums(self, task: LocalTask) -> Vector:
        """Returns the sum over local steps of (clipped gradient sum + noise): float32 (num_parameters,).

        Each step starts from the weights w_k that the earlier ones led to; t_k is what the first k steps
        would return, t_0 = 0 and

            t_(k+1) = t_k + g_k,    g_k = clipped sum at w_k + noise_k + proximal_mu * (w_k - w_0).

        With plain SGD w_k = w_0 - local_step_size * t_k: the returned sum tells where the client arrived, as
        FedProx has it, and the pull never makes the noise larger. Momentum and Adam, which have no pull,
        move the weights by their own means of g_0 ... g_(k-1). Pull and moves are functions of noisy sums
        and public weights: they cost no privacy. A gradient that is not finite counts as zero.
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
    if name == "book_keeping_xla":
        from fedpipe.learning.book_keeping_kernel import book_keeping_kernel
        from fedpipe.learning.xla import by_xla

        return book_keeping_kernel(definition, by_xla)
    if name == "tensorflow_privacy":
        from fedpipe.learning.tensorflow_privacy_kernel import tensorflow_privacy_kernel

        return tensorflow_privacy_kernel(definition)
    known = ("book_keeping", "book_keeping_xla", "tensorflow_privacy")
    raise ConfigError(f"Expected a known training.kernel, found {name!r}. {nearest(name, known)}")
