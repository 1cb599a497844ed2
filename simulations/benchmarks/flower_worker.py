"""Runs Flower's own simulation on Ray with a client that compiles TensorFlow Privacy's model each round.

That is how such a client is usually written. A tenth of the clients takes part, and the seconds that it
prints, one line for each that it reads, are ten times theirs: a round of all takes minutes.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
import time

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
HOME = os.path.dirname(os.path.abspath(__file__))
PART = 10
ROUNDS = 10_000  # more than anybody asks for; the process is ended before


def make_model():
    """Returns the compiled MLP."""
    import problems
    import tensorflow as tf
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    layers = [tf.keras.layers.InputLayer((700,)), tf.keras.layers.Dense(64, "relu")]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(16, "relu"), tf.keras.layers.Dense(1)])
    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=problems.CLIPPING_NORM,
        noise_multiplier=problems.NOISE_MULTIPLIER,
        num_microbatches=problems.CLIENT_BATCH,
        learning_rate=problems.LEARNING_RATE,
    )
    model.compile(optimizer, tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction="none"))
    return model


def make_client(context):
    """Returns the client of one partition."""
    sys.path.insert(0, HOME)
    import problems
    from flwr.client import NumPyClient

    class Client(NumPyClient):
        def fit(self, parameters, config):
            features, labels = problems.clients()[int(context.node_config["partition-id"])]
            model = make_model()
            model.set_weights(parameters)
            model.fit(features, labels[:, None], batch_size=problems.CLIENT_BATCH, epochs=1, verbose=0)
            return model.get_weights(), len(labels), {}

    return Client().to_client()


def main():
    """Prints the first round's seconds, then one figure for each line read."""
    sys.path.insert(0, HOME)
    import problems
    import ray
    from flwr.client import ClientApp
    from flwr.common import ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    class Tell(FedAvg):
        """Tells each round's seconds, and waits to be asked for the next."""

        start = 0.0

        def configure_fit(self, *args, **kwargs):
            self.start = time.perf_counter()
            return super().configure_fit(*args, **kwargs)

        def aggregate_fit(self, *args, **kwargs):
            aggregate = super().aggregate_fit(*args, **kwargs)
            os.write(answers, f"{PART * (time.perf_counter() - self.start)}\n".encode())
            if not sys.stdin.readline():
                ray.shutdown()
                os._exit(0)
            return aggregate

    # Flower and Ray print too: only we speak on what the benchmark reads.
    answers = os.dup(1)
    os.dup2(2, 1)
    initial = ndarrays_to_parameters(make_model().get_weights())
    cohort = problems.CLIENTS // PART
    strategy = Tell(
        fraction_fit=1 / PART,
        fraction_evaluate=0.0,
        min_fit_clients=cohort,
        min_available_clients=problems.CLIENTS,
        initial_parameters=initial,
    )
    run_simulation(
        server_app=ServerApp(
            server_fn=lambda _: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))
        ),
        client_app=ClientApp(make_client),
        num_supernodes=problems.CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}},
    )


if __name__ == "__main__":
    main()
