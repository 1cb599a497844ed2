"""One federated round of a hundred clients, side by side: ours with DP-SGD, peers with and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpipe.learning.architectures import initial_weights
from fedpipe.learning.kernel import make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.memory import align
from fedpipe.privacy import DpSgd, SecureRandomness
from simulations.benchmarks.contestants import Run, define
from simulations.benchmarks.peers import round_peers
from simulations.benchmarks.problems import (
    CLIENT_BATCH,
    CLIENT_RECORDS,
    CLIENTS,
    CLIPPING_NORM,
    LEARNING_RATE,
    NOISE_MULTIPLIER,
    clients,
)
from simulations.benchmarks.turns import Summary, take_turns

LOCAL_STEPS = CLIENT_RECORDS // CLIENT_BATCH


def measure_round(*, turns: int, peers: Path | None) -> Summary:
    """Returns the contestants' medians for a round of all clients."""
    makers: dict[str, Callable[[], Callable[[], object]]] = {
        "fedpipe, DP-SGD": lambda: _federation(private=True),
        "fedpipe, no privacy": lambda: _federation(private=False),
    }
    if peers:
        makers.update(round_peers(peers))
    return take_turns(makers, turns)


def _federation(*, private: bool) -> Run:
    """Clients one after the other through one compiled kernel, as the engine in process has them."""
    definition = define("mlp")
    kernel, randomness = make_kernel("book_keeping", definition), SecureRandomness()
    mechanism = DpSgd(
        sampling_probability=CLIENT_BATCH / CLIENT_RECORDS,
        clipping_norm=CLIPPING_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        num_rounds=1,
        local_steps=LOCAL_STEPS,
    )
    shards = [(align(features), labels) for features, labels in clients()]
    model = {"weights": initial_weights(definition, 0)}
    silence = np.zeros((LOCAL_STEPS, model["weights"].size), np.float32)

    def run() -> object:
        weights = model["weights"]
        total = np.zeros_like(weights)
        for features, labels in shards:
            total += kernel.noisy_sums(
                LocalTask(
                    weights=weights,
                    features=features,
                    labels=labels,
                    batches=mechanism.sample(len(labels), randomness),
                    noise=mechanism.noise(weights.size, randomness) if private else silence,
                    clipping_norm=CLIPPING_NORM if private else None,
                    local_step_size=LEARNING_RATE / CLIENT_BATCH,
                )
            )
        model["weights"] = weights - np.float32(LEARNING_RATE / CLIENT_BATCH / CLIENTS) * total
        return model["weights"]

    return run
