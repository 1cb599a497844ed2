"""How far to step: what `auto` means for each strategy, and what the clients' own steps take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpipe.federation.schedules import schedule_factors
from fedpipe.federation.strategies import Strategy, make_strategy
from fedpipe.learning import TrainingSettings
from fedpipe.learning.definition import LOCAL_MOMENTUM
from fedpipe.privacy import DpSgd, PrivacyPlan

NOISE_DRIFT = 0.4
MAX_LEARNING_RATE = 4.0
MAX_SCALED_LEARNING_RATE = 0.1  # fedadagrad, fedadam, fedyogi: about what a weight moves by in a round
REHEARSED_WEIGHTS = 256
STRONGEST_PULL = 0.999  # a full pull back to the start leaves no step at all


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Public numbers that scale all steps of a run.

    Attributes:
      server: the learning rate of the strategy.
      local: by client, what its own steps move its weights by, per unit of noisy sum, or with adam of
        nothing; empty for a single local step, which needs none.
      proximal_mus: by client, FedProx's mu per unit of noisy sum; empty without a pull.
    """

    server: float
    local: Mapping[str, float]
    proximal_mus: Mapping[str, float]


def choose_step_sizes(
    training: TrainingSettings, plan: PrivacyPlan, sizes: Mapping[str, float], *, least_size: float
) -> StepSizes:
    """Returns the run's step sizes.

    Args:
      training: public constants.
      plan: the run's plan.
      sizes: noisily counted training records of each client.
      least_size: a client's size below this is noise, and is raised to it.
    """
    server = choose_learning_rate(training, plan, sizes)
    if training.local_steps == 1:
        return StepSizes(server=server, local={}, proximal_mus={})
    rate = _local_learning_rate(training, plan, sizes, server)
    if training.local_optimizer == "adam":
        return StepSizes(server=server, local=dict.fromkeys(sizes, rate), proximal_mus={})
    batches = {
        client: training.sampling_probability * max(size, least_size, 1.0) for client, size in sizes.items()
    }
    pull = min(training.local_pull, STRONGEST_PULL / rate)
    return StepSizes(
        server=server,
        local={client: rate / batch for client, batch in batches.items()},
        proximal_mus={client: pull * batch for client, batch in batches.items()} if pull else {},
    )


def strategy_note(training: TrainingSettings) -> str | None:
    """Returns what people should know about their choice of a strategy, or None."""
    if training.local_pull and training.local_steps == 1:
        return (
            "training.strategy=fedprox has no effect with local_steps=1: a single step has nothing to be "
            "pulled back from. Raise training.local_steps, or use fedavg."
        )
    return None


def choose_learning_rate(training: TrainingSettings, plan: PrivacyPlan, sizes: Mapping[str, float]) -> float:
    """Returns the configured step size, or the largest at which noise cannot carry the weights away.

    Over T steps of size r, noise of standard deviation s in the mean gradient moves each weight by
    about r s sqrt(T), or by 1 / (1 - momentum) times that; `auto` holds this at NOISE_DRIFT. The
    strategies that scale their steps by past gradients follow no such formula: they are let loose
    on nothing but noise, and the same bound is put on where that carries them. Rounds that a
    schedule shortens count for less. All of it is known: the plan is public, the sizes are
    released counts.
    """
    if training.learning_rate != "auto":
        return training.learning_rate
    stddev = _round_noise_stddev(plan, sizes)
    if training.scales_steps:
        drift = noise_drift(make_strategy(training), schedule_factors(training), stddev)
        return _bounded(MAX_SCALED_LEARNING_RATE, drift)
    return _plain_learning_rate(training, stddev) * (1 - training.server_momentum)


def noise_drift(strategy: Strategy, factors: Sequence[float], stddev: float) -> float:
    """Returns how far noise alone carries a weight at a learning rate of 1: root mean square.

    Args:
      strategy: what steps.
      factors: of the learning rate, by round.
      stddev: of the noise in each round's mean gradient.
    """
    # A rehearsal, which concerns nobody's records: the same numbers each time.
    generator = np.random.default_rng(0)
    moments, position = strategy.start(REHEARSED_WEIGHTS), np.zeros(REHEARSED_WEIGHTS)
    for server_round, factor in enumerate(factors, start=1):
        noise = generator.normal(0.0, stddev, REHEARSED_WEIGHTS)
        direction, moments = strategy.step(moments, noise, server_round)
        position += factor * direction
    return float(np.sqrt(np.mean(position**2)))


def _local_learning_rate(
    training: TrainingSettings, plan: PrivacyPlan, sizes: Mapping[str, float], server: float
) -> float:
    """Returns the clients' own step size on a mean gradient; with adam, about what a weight moves by."""
    if training.local_learning_rate != "auto":
        return training.local_learning_rate
    if training.local_optimizer == "adam":
        return MAX_SCALED_LEARNING_RATE / training.local_steps
    # The server's rate is of another unit where it goes with scaled steps.
    stddev = _round_noise_stddev(plan, sizes)
    plain = _plain_learning_rate(training, stddev) if training.scales_steps else server
    return plain * (1 - LOCAL_MOMENTUM) if training.local_optimizer == "momentum" else plain


def _plain_learning_rate(training: TrainingSettings, stddev: float) -> float:
    drift = stddev * math.sqrt(sum(factor**2 for factor in schedule_factors(training)))
    return _bounded(MAX_LEARNING_RATE, drift)


def _bounded(largest: float, drift: float) -> float:
    return min(largest, NOISE_DRIFT / drift) if drift else largest


def _round_noise_stddev(plan: PrivacyPlan, sizes: Mapping[str, float]) -> float:
    """Returns the noise of a weight in a round's mean gradient, over its local steps; 0 without privacy."""
    query = plan.queries.get("training")
    if query is None or not isinstance(query.mechanism, DpSgd):
        return 0.0
    mechanism = query.mechanism
    stddev = mechanism.noise_multiplier * mechanism.clipping_norm
    stddev *= math.sqrt(len(sizes) * mechanism.local_steps)
    return stddev / (mechanism.sampling_probability * max(sum(sizes.values()), 1.0))
