"""How good one client's model is at epsilon 3: Fashion-MNIST, scattering features, a linear model.

`python -m simulations.benchmarks.utility` trains as Tramer and Boneh 2021 (arXiv:2011.11660) do, who reach
89.7 % at delta 1e-5, and prints the accuracy on the ten thousand test pictures. It takes some minutes.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from dp_accounting import dp_event
from numpy.typing import NDArray
from scipy.optimize import brentq

from fedpipe.learning.definition import ModelDefinition, ModelSettings
from fedpipe.learning.kernel import make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.vectors import Vector
from fedpipe.memory import empty_aligned
from fedpipe.privacy import DpSgd, SecureRandomness
from fedpipe.privacy.accounting import epsilon
from simulations.scattering import normalize_groups, scatter

NUM_CLASSES, DELTA = 10, 1e-5
BATCH, EPOCHS = 8192, 40
CLIPPING_NORM, LEARNING_RATE, MOMENTUM = 0.1, 16.0, 0.9
PICTURES_AT_ONCE = 2000  # bounds memory
FOLDER = Path("/usr/share/datasets/fashion-mnist")


def read(folder: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the scattering features (n, 3969) and labels (n,) of `train` or `t10k`, in IDX format."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as stream:
        pictures = np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8).astype(np.int32)
    features = empty_aligned((len(labels), 7 * 7 * 81))
    for start in range(0, len(labels), PICTURES_AT_ONCE):
        chosen = slice(start, start + PICTURES_AT_ONCE)
        scattered = normalize_groups(scatter(pictures[chosen].astype(np.float32) / 255))
        features[chosen] = scattered.reshape(len(scattered), -1)
    return features, labels


def plan(num_records: int, epsilon_target: float) -> DpSgd:
    """Returns the mechanism with the least noise that keeps within (epsilon_target, DELTA)."""
    rate, steps = BATCH / num_records, EPOCHS * num_records // BATCH

    def cost(noise: float) -> float:
        step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
        return epsilon([dp_event.SelfComposedDpEvent(step, steps)], DELTA)

    noise = float(brentq(lambda noise: cost(noise) - epsilon_target, 0.5, 50.0, xtol=1e-3))
    return DpSgd(
        sampling_probability=rate,
        clipping_norm=CLIPPING_NORM,
        noise_multiplier=noise + 2e-3,  # on the safe side of the root
        num_rounds=steps,
        local_steps=1,
    )


def train(features: NDArray[np.float32], labels: NDArray[np.int32], mechanism: DpSgd) -> Vector:
    """Returns the weights of a linear model after all rounds of DP-SGD with momentum."""
    settings = ModelSettings.model_validate({"type": "logistic_regression"})
    definition = ModelDefinition(settings=settings, num_features=features.shape[1], num_classes=NUM_CLASSES)
    kernel, randomness = make_kernel("book_keeping", definition), SecureRandomness()
    weights = np.zeros((features.shape[1] + 1) * NUM_CLASSES, np.float32)
    velocity = np.zeros_like(weights)
    for _ in range(mechanism.num_rounds):
        task = LocalTask(
            weights=weights,
            features=features,
            labels=labels,
            batches=mechanism.sample(len(labels), randomness),
            noise=mechanism.noise(weights.size, randomness),
            clipping_norm=mechanism.clipping_norm,
            local_step_size=0.0,
        )
        velocity = MOMENTUM * velocity + kernel.noisy_sums(task) / np.float32(BATCH)
        weights = (weights - LEARNING_RATE * velocity).astype(np.float32)
    return weights


def accuracy(weights: Vector, features: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """Returns the share of records whose class the linear model finds."""
    logits = features @ weights[:-NUM_CLASSES].reshape(-1, NUM_CLASSES) + weights[-NUM_CLASSES:]
    return float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    """Prints the guarantee and the accuracy."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks.utility", description=__doc__)
    parser.add_argument("--data", type=Path, default=FOLDER, help="folder of the IDX files")
    parser.add_argument("--epsilon", type=float, default=3.0)
    arguments = parser.parse_args()
    features, labels = read(arguments.data, "train")
    mechanism = plan(len(labels), arguments.epsilon)
    event = dp_event.SelfComposedDpEvent(mechanism.event, mechanism.num_rounds)
    weights = train(features, labels, mechanism)
    found = accuracy(weights, *read(arguments.data, "t10k"))
    print(f"epsilon {epsilon([event], DELTA):.3f}, delta {DELTA:g}: accuracy {found:.4f}")


if __name__ == "__main__":
    main()
