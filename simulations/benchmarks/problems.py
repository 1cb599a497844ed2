"""What is trained: three models and made-up records, the same for every contestant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BATCH, STEPS = 256, 10
LEARNING_RATE, CLIPPING_NORM, NOISE_MULTIPLIER = 0.1, 1.0, 1.0
CLIENTS, CLIENT_RECORDS, CLIENT_BATCH = 100, 600, 100
ROUND_TITLE = "a federated round: 100 clients of 600 records, MLP 700-64-16-1, six local steps of 100 records"
TITLES = {
    "lr": "logistic regression, 2000 inputs",
    "mlp": "MLP 700-64-16-1",
    "cnn": "CNN of TensorFlow Privacy's MNIST tutorial",
}


def records(problem: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns features (STEPS * BATCH, num_features) and labels; `cnn` has pictures of 28 x 28 in rows."""
    generator = np.random.default_rng(0)
    width, classes = {"lr": (2000, 2), "mlp": (700, 2), "cnn": (784, 10)}[problem]
    features = generator.random((STEPS * BATCH, width), dtype=np.float32)
    if problem != "cnn":  # mostly zeros, as in encoded tables and texts
        features *= generator.random(features.shape) < 0.05
    return features, generator.integers(0, classes, len(features)).astype(np.int32)


def clients() -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Returns each client's features (CLIENT_RECORDS, 700) and labels."""
    features, labels = records("mlp")
    rows = np.random.default_rng(2).integers(len(labels), size=(CLIENTS, CLIENT_RECORDS))
    return [(features[own], labels[own]) for own in rows]
