"""Runs TensorFlow Federated's federated averaging: a line of seconds for each line it reads. No privacy."""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def main():
    """Prints the first round's seconds, building included, then one figure for each line read."""
    import problems
    import tensorflow as tf
    import tensorflow_federated as tff

    data = [
        tf.data.Dataset.from_tensor_slices((x, y[:, None])).batch(problems.CLIENT_BATCH)
        for x, y in problems.clients()
    ]

    def model():
        layers = [tf.keras.layers.InputLayer((700,)), tf.keras.layers.Dense(64, "relu")]
        layers += [tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(1)]
        return tff.learning.models.from_keras_model(
            tf.keras.Sequential(layers),
            input_spec=data[0].element_spec,
            loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
        )

    start = time.perf_counter()
    process = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(problems.LEARNING_RATE),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )
    state = process.next(process.initialize(), data).state
    print(time.perf_counter() - start, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        state = process.next(state, data).state
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
