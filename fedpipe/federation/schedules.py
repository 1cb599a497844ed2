"""How the step size changes over the rounds: public factors of the learning rate."""

from __future__ import annotations

import math

from fedpipe.learning import TrainingSettings


def schedule_factor(settings: TrainingSettings, server_round: int) -> float:
    """Returns what the learning rate of `server_round` (from 1) is multiplied by: in (0, 1].

    It rises evenly over `warmup_rounds`, is 1 in the round after, and then falls as
    `learning_rate_schedule` says, towards the 0 that would be the round after the last.

    >>> settings = TrainingSettings(num_rounds=6, learning_rate_schedule="linear", warmup_rounds=1)
    >>> [round(schedule_factor(settings, server_round), 2) for server_round in range(1, 7)]
    [0.5, 1.0, 0.8, 0.6, 0.4, 0.2]
    """
    warmup = settings.warmup_rounds
    if server_round <= warmup:
        return server_round / (warmup + 1)
    done = (server_round - warmup - 1) / (settings.num_rounds - warmup)
    match settings.learning_rate_schedule:
        case "linear":
            return 1 - done
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
    return 1.0


def schedule_factors(settings: TrainingSettings) -> list[float]:
    """Returns the factors of all rounds."""
    return [schedule_factor(settings, server_round) for server_round in range(1, settings.num_rounds + 1)]
