"""Records with scores whose metrics are known in closed form, or drawn from a known model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def binary_records(size: int, separation: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Calibrated scores of two normal classes: AUC is Phi(separation / sqrt 2)."""
    labels = rng.integers(2, size=size)
    values = rng.normal(size=size) + separation * (labels - 0.5)
    return 1 / (1 + np.exp(-separation * values)), labels


def class_records(size: int, classes: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Scores of several classes, each likeliest for its own records."""
    labels = rng.integers(classes, size=size)
    logits = 2 * (rng.normal(size=(size, classes)) + 2 * np.eye(classes)[labels])
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), labels
