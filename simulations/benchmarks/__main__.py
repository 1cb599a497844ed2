"""`python -m simulations.benchmarks`: local training steps, interleaved, medians, one thread.

Each contestant makes ten steps on batches of 256 of the same random data, in one compiled call
where it can. A figure is the median time over rounds relative to plain SGD without privacy.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.architectures import build_model, initial_weights
from fedpipe.learning.definition import ModelDefinition, ModelSettings
from fedpipe.learning.kernel import LocalTask, make_kernel
from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.privacy import SecureRandomness

BATCH, STEPS, ROUNDS = 256, 10, 9
PROBLEMS = {
    "logistic regression 2000-2": ModelDefinition(
        settings=ModelSettings.model_validate({"type": "logistic_regression"}),
        num_features=2000,
        num_classes=2,
    ),
    "mlp 700-64-16-1": ModelDefinition(
        settings=ModelSettings.model_validate({"type": "mlp"}), num_features=700, num_classes=2
    ),
}


def main() -> None:
    """Prints one table per model."""
    for title, definition in PROBLEMS.items():
        contestants = make_contestants(definition)
        times = interleave(contestants)
        plain = statistics.median(times["plain SGD"])
        print(f"\n{title}: {STEPS} steps of {BATCH}")
        for name, samples in times.items():
            median = statistics.median(samples)
            print(f"  {name:<44}{1000 * median:9.1f} ms  {median / plain:6.2f} x plain")


def interleave(contestants: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Returns seconds per round of each contestant, who take turns; the first call warms up."""
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def make_contestants(definition: ModelDefinition) -> dict[str, Callable[[], object]]:
    """Returns who is compared, each as a function that makes all steps."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(BATCH * STEPS, definition.num_features)).astype(np.float32)
    labels = generator.integers(0, 2, BATCH * STEPS).astype(np.int32)
    return {
        "plain SGD": _plain(definition, features, labels),
        "fedpipe, kernel book_keeping, with noise": _kernel("book_keeping", definition, features, labels),
        "fedpipe, kernel tensorflow_privacy, with noise": _kernel(
            "tensorflow_privacy", definition, features, labels
        ),
        "TensorFlow Privacy, DPKerasSGD vectorized": _keras(definition, features, labels),
    }


def _kernel(
    name: str, definition: ModelDefinition, features: NDArray[Any], labels: NDArray[Any]
) -> Callable[[], object]:
    kernel = make_kernel(name, definition)
    weights = initial_weights(definition, 0)
    batches = list(np.arange(BATCH * STEPS, dtype=np.int32).reshape(STEPS, BATCH))
    randomness = SecureRandomness()

    def run() -> object:
        noise = randomness.normal(STEPS * weights.size).astype(np.float32).reshape(STEPS, -1)
        return kernel.noisy_sums(
            LocalTask(
                weights=weights,
                features=features,
                labels=labels,
                batches=batches,
                noise=noise,
                clipping_norm=1.0,
                local_step_size=0.1 / BATCH,
            )
        )

    return run


def _plain(definition: ModelDefinition, features: NDArray[Any], labels: NDArray[Any]) -> Callable[[], object]:
    model = build_model(definition)
    x, y = tf.constant(features.reshape(STEPS, BATCH, -1)), tf.constant(labels.reshape(STEPS, BATCH))

    def steps() -> Any:
        def body(step: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(per_example_loss(y[step], model(x[step])))
            for variable, gradient in zip(
                model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
            ):
                variable.assign_sub(0.1 * gradient)
            return step + 1

        return tf.while_loop(lambda step: step < STEPS, body, [0], parallel_iterations=1)

    run = tf.function(steps, autograph=False)

    def finish() -> object:
        return run()[0].numpy()

    return finish


def _keras(definition: ModelDefinition, features: NDArray[Any], labels: NDArray[Any]) -> Callable[[], object]:
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    model = build_model(definition)
    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=1.0, noise_multiplier=1.0, num_microbatches=BATCH, learning_rate=0.1
    )
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    model.compile(optimizer, loss)
    targets = labels[:, np.newaxis].astype(np.float32)
    return lambda: model.fit(features, targets, batch_size=BATCH, epochs=1, verbose=0, shuffle=False)


if __name__ == "__main__":
    main()
