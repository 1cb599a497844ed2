"""The metrics of `evaluation` computed exactly from pooled records, to referee simulations.

A federation cannot compute these: nobody there sees the records. Where a simulation prints
them, they belong under `simulation_only`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import DataError
from fedpipe.learning.score_histograms import FloatArray, IntArray, record_brier_scores, sanitize_scores


def exact_metrics(probabilities: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """Returns the six metrics of `evaluation.Metrics`, by the same definitions.

    The log loss is bounded by clipping probabilities at 1e-15. A class without a positive or
    a negative record is left out of the macro averages; if none is left, AUC is 0.5 and
    average precision 1/K.

    Args:
      probabilities: float (n,) or (n, K), as in `score_histograms`.
      labels: integer (n,), in [0, K).

    Raises:
      DataError: there are no records, or shapes or labels are wrong.

    >>> exact_metrics(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1]))["auc"]
    0.75
    """
    scores, truth = sanitize_scores(probabilities, labels)
    if len(truth) == 0:
        raise DataError("Expected at least one record to evaluate, found none.")
    classes = scores.shape[1]
    ranked = [1] if classes == 2 else range(classes)
    pairs = [_ranking(scores[:, k], truth == k) for k in ranked if 0 < np.sum(truth == k) < len(truth)]
    auc, precision = np.mean(pairs, axis=0) if pairs else (0.5, 1 / classes)
    predicted = (scores[:, 1] >= 0.5).astype(np.int64) if classes == 2 else scores.argmax(axis=1)
    return {
        "auc": float(auc),
        "average_precision": float(precision),
        "log_loss": float(-np.log(np.clip(_true_class(scores, truth), 1e-15, 1.0)).mean()),
        "brier": float(record_brier_scores(scores, truth).mean() / (2 if classes == 2 else 1)),
        "accuracy": float(np.mean(predicted == truth)),
        "majority_accuracy": float(np.bincount(truth).max() / len(truth)),
    }


def _ranking(scores: FloatArray, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns AUC (ties one half) and average precision (ties share the last one's precision)."""
    _, groups = np.unique(-scores, return_inverse=True)
    hits, sizes = np.bincount(groups, weights=positive), np.bincount(groups)
    misses = sizes - hits
    below = misses.sum() - np.cumsum(misses) + misses / 2
    precision = np.cumsum(hits) / np.cumsum(sizes)
    return float(hits @ below / (hits.sum() * misses.sum())), float(hits @ precision / hits.sum())


def _true_class(scores: FloatArray, truth: IntArray) -> FloatArray:
    return np.take_along_axis(scores, truth[:, None], axis=1)[:, 0]
