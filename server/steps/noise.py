"""Before training: how loud the noise will be beside the signal, from the plan and released counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedpipe.privacy import DpSgd, PrivacyPlan

LOUD = 0.05


def noise_to_signal(plan: PrivacyPlan, sizes: Mapping[str, float], num_parameters: int) -> float | None:
    """Returns the length of the noise in the mean gradient over that of the largest possible signal.

    One round's mean gradient has length at most the clipping norm C. Its noise has the length
    z C sqrt(clients * parameters) / (q * records), and averages over the rounds. None without
    noise.

    Args:
      plan: the run's plan.
      sizes: noisily counted training records of each client.
      num_parameters: of the model; every one of them gets noise.
    """
    query = plan.queries.get("training")
    if query is None or not isinstance(query.mechanism, DpSgd):
        return None
    mechanism = query.mechanism
    length = mechanism.noise_multiplier * math.sqrt(len(sizes) * num_parameters)
    batch = mechanism.sampling_probability * max(sum(sizes.values()), 1.0)
    return length / (batch * math.sqrt(mechanism.num_rounds * mechanism.local_steps))


def round_noise(plan: PrivacyPlan, total: float, num_clients: int, num_parameters: int) -> float:
    """Returns the expected L2 norm of the noise in one round's mean gradient; 0 without noise.

    Args:
      plan: the run's plan.
      total: the size that the round's sum is divided by, before its sampling probability.
      num_clients: that answered; each adds its own noise in every local step.
      num_parameters: of the model.
    """
    query = plan.queries.get("training")
    if query is None or not isinstance(query.mechanism, DpSgd):
        return 0.0
    mechanism = query.mechanism
    stddev = mechanism.noise_multiplier * mechanism.clipping_norm
    cells = num_clients * mechanism.local_steps * num_parameters
    return stddev * math.sqrt(cells) / (mechanism.sampling_probability * total)


def noise_advice(ratio: float | None, plan: PrivacyPlan, num_parameters: int) -> str | None:
    """Returns what to tell people about `ratio`, or None when the noise is no concern."""
    if ratio is None or ratio < LOUD:
        return None
    return (
        f"Noise will be loud: {ratio:.0%} of the largest possible signal, over all rounds. "
        f"What would help, each about halving it: twice the records; privacy.epsilon={2 * plan.epsilon:g}; "
        f"a model with a quarter of its {num_parameters} parameters. "
        "More rounds help little, since each then gets less of the budget."
    )
