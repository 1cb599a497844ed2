"""What a client counts when a model is evaluated: exact integer histograms of scored records.

Privacy unit: one evaluation record. Neighbouring relation: add or remove one. Every record
falls into exactly one cell of each histogram, whatever its score, a NaN and an infinity
included; so neighbouring data sets differ by 1 in one cell of each histogram. One histogram
has L1 and L2 sensitivity 1, the `num_histograms` of one evaluation together have L2
sensitivity `sqrt(num_histograms)`. The bins are public: they come from a released base rate,
never from the scores that they count. The counts here are exact and must not leave the
client before noise was added (Canonne, Kamath, Steinke 2020, arXiv:2004.00010).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from fedpipe.errors import ConfigError, DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BINARY = "scores"
CONFUSION = "confusion"
TRUE_CLASS = "true_class_probability"
BRIER = "brier"

_MIN_BINS = 4
_REACH = 7.0  # logits beyond the base rate, and beyond 0, up to which bins are finite


class ScoreBins(BaseModel):
    """Public bins of a predicted probability: bin b holds `edges[b] <= p < edges[b + 1]`.

    The first edge is 0, the last is 1 (which the last bin includes) and 0.5 is always an
    edge, so that accuracy at the threshold 0.5 is exact.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]

    @field_validator("edges")
    @classmethod
    def _check_edges(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if len(edges) <= _MIN_BINS or edges[0] != 0.0 or edges[-1] != 1.0 or 0.5 not in edges:
            raise ValueError(f"Expected more than {_MIN_BINS} edges from 0 to 1, one of them 0.5.")
        if not all(low < high for low, high in itertools.pairwise(edges)):
            raise ValueError("Expected edges that strictly increase.")
        return edges

    @classmethod
    def around(cls, base_rate: float, num_bins: int = 20) -> ScoreBins:
        """Returns the bins of `make_score_bins`.

        >>> ScoreBins.around(0.2).num_bins
        20
        """
        return cls(edges=make_score_bins(base_rate, num_bins))

    @property
    def num_bins(self) -> int:
        """Returns the number of bins."""
        return len(self.edges) - 1

    def logit_edges(self) -> FloatArray:
        """Returns the edges on the logit scale, float64 (num_bins + 1,), all finite.

        The two outer bins reach to infinity; they are given the width of their neighbours,
        so that the midpoint of a bin always exists. A score beyond stands for that midpoint.
        """
        inner = np.asarray(self.edges[1:-1], dtype=np.float64)
        logits = np.log(inner) - np.log1p(-inner)
        return np.concatenate([[2 * logits[0] - logits[1]], logits, [2 * logits[-1] - logits[-2]]])


def make_score_bins(base_rate: float, num_bins: int) -> tuple[float, ...]:
    """Returns the probability edges, (num_bins + 1,), finest around `base_rate`.

    Edges are spaced by a hyperbolic sine on the logit scale: nearly even within one logit of
    the base rate, growing geometrically beyond, up to 7 logits past it and past 0. The edge
    next to 0.5 is moved onto it.

    Args:
      base_rate: a public or already released rate of positives; clipped to [0.001, 0.999].
        For K classes that share their bins, 1/K.
      num_bins: at least 4.

    Raises:
      ConfigError: `base_rate` is not finite or `num_bins` is too small.

    >>> [round(edge, 3) for edge in make_score_bins(0.5, 6)]
    [0.0, 0.056, 0.269, 0.5, 0.731, 0.944, 1.0]
    """
    if num_bins < _MIN_BINS:
        raise ConfigError(f"Expected num_bins={num_bins} >= {_MIN_BINS}.")
    if not math.isfinite(base_rate):
        raise ConfigError(f"Expected a finite base_rate, found {base_rate}.")
    rate = min(max(base_rate, 0.001), 0.999)
    center = math.log(rate / (1 - rate))
    start, stop = (
        math.asinh(min(center, 0.0) - _REACH - center),
        math.asinh(max(center, 0.0) + _REACH - center),
    )
    logits = center + np.sinh(np.linspace(start, stop, num_bins + 1)[1:-1])
    logits[np.argmin(np.abs(logits))] = 0.0
    return (0.0, *(float(1 / (1 + math.exp(-logit))) for logit in logits), 1.0)


def brier_edges(num_bins: int) -> FloatArray:
    """Returns the edges of the bins of a record's Brier score, float64 (num_bins + 1,) in [0, 2].

    They are squares, hence finest near 0, where the records of a good model lie.
    """
    return np.asarray(2.0 * np.linspace(0.0, 1.0, num_bins + 1) ** 2, dtype=np.float64)


def class_histogram(index: int) -> str:
    """Returns the name of the one-vs-rest histogram of the class `index`."""
    return f"{BINARY}_{index}"


def num_histograms(num_classes: int) -> int:
    """Returns how many histograms one evaluation releases, each of sensitivity 1.

    >>> num_histograms(2), num_histograms(5)
    (1, 8)
    """
    if num_classes < 2:
        raise ConfigError(f"Expected num_classes={num_classes} >= 2.")
    return 1 if num_classes == 2 else num_classes + 3


def histogram_shapes(num_classes: int, num_bins: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of `score_histograms`, by name.

    >>> histogram_shapes(2, 20)
    {'scores': (2, 20)}
    """
    if num_classes == 2:
        return {BINARY: (2, num_bins)}
    return {
        **{class_histogram(index): (2, num_bins) for index in range(num_classes)},
        CONFUSION: (num_classes, num_classes),
        TRUE_CLASS: (num_bins,),
        BRIER: (num_bins,),
    }


def score_histograms(
    probabilities: NDArray[Any], labels: NDArray[Any], bins: ScoreBins
) -> dict[str, IntArray]:
    """Returns the exact histograms of scored records; each record is in one cell of each.

    A probability outside [0, 1] counts as the nearer end. One that is not a number counts as
    the worst answer to that record, so a model that diverged never looks good.

    Args:
      probabilities: float (n,), of label 1; or (n, K), of every class. (n, 2) is binary.
      labels: integer (n,), in [0, K).
      bins: public bins.

    Returns:
      Binary: `scores` int64 (2, num_bins), [label, bin]. K > 2 classes: `scores_k` for every
      class against the rest, `confusion` (K, K) [true, predicted], `true_class_probability`
      (num_bins,) and `brier` (num_bins,) of `sum_k (p_k - y_k)^2`.

    Raises:
      DataError: shapes or labels are wrong. Encoded labels are the preprocessing's promise:
        a caller must not let this error, which depends on records, leave the client.
    """
    scores, truth = sanitize_scores(probabilities, labels)
    classes = scores.shape[1]
    cells = np.searchsorted(np.asarray(bins.edges[1:-1]), scores, side="right")
    if classes == 2:
        return {BINARY: _count(truth, cells[:, 1], (2, bins.num_bins))}
    shape = (2, bins.num_bins)
    counts = {class_histogram(k): _count(truth == k, cells[:, k], shape) for k in range(classes)}
    counts[CONFUSION] = _count(truth, scores.argmax(axis=1), (classes, classes))
    counts[TRUE_CLASS] = _count(
        0 * truth, np.take_along_axis(cells, truth[:, None], 1)[:, 0], (1, bins.num_bins)
    )[0]
    squares = record_brier_scores(scores, truth)
    brier_cells = np.searchsorted(brier_edges(bins.num_bins)[1:-1], squares, side="right")
    counts[BRIER] = _count(0 * truth, brier_cells, (1, bins.num_bins))[0]
    return counts


def slice_histogram(
    probabilities: NDArray[Any],
    labels: NDArray[Any],
    categories: NDArray[Any],
    num_categories: int,
    bins: ScoreBins,
) -> IntArray:
    """Returns one histogram over categories, outcomes and score bins; a record is in one cell of it.

    With two classes the outcome is the label and the score that of class 1. With more, the outcome
    is whether the most probable class is right, and the score its probability.

    Args:
      probabilities: float (n,) or (n, K), as for `score_histograms`.
      labels: integer (n,), in [0, K).
      categories: integer (n,), in [0, num_categories).
      num_categories: public, as the bins are.
      bins: public bins.

    Returns:
      int64 (num_categories, 2, num_bins), [category, outcome, bin].

    Raises:
      DataError: as `score_histograms`, or categories do not fit. It must not leave the client.
    """
    scores, truth = sanitize_scores(probabilities, labels)
    groups = np.asarray(categories)
    if groups.shape != truth.shape or np.any(groups < 0) or np.any(groups >= num_categories):
        raise DataError(f"Expected a category in [0, {num_categories}) for every record.")
    outcome, score = truth, scores[:, 1]
    if scores.shape[1] > 2:
        outcome, score = (scores.argmax(axis=1) == truth).astype(np.int64), scores.max(axis=1)
    cells = np.searchsorted(np.asarray(bins.edges[1:-1]), score, side="right")
    shape = (2 * num_categories, bins.num_bins)
    return _count(2 * groups + outcome, cells, shape).reshape(num_categories, 2, bins.num_bins)


def sanitize_scores(probabilities: NDArray[Any], labels: NDArray[Any]) -> tuple[FloatArray, IntArray]:
    """Returns scores float64 (n, K) within [0, 1], free of NaN, and labels int64 (n,).

    Raises:
      DataError: shapes do not fit, or labels are no integers in [0, K).
    """
    scores, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if scores.ndim == 1:
        scores = np.stack([1.0 - scores, scores], axis=1)
    if scores.ndim != 2 or scores.shape[1] < 2 or truth.shape != scores.shape[:1]:
        raise DataError(
            f"Expected scores (n,) or (n, K) and labels (n,), found {scores.shape} and {truth.shape}."
        )
    if truth.dtype.kind not in "iub" or np.any(truth < 0) or np.any(truth >= scores.shape[1]):
        raise DataError(f"Expected integer labels in [0, {scores.shape[1]}); encode them before evaluation.")
    truth = truth.astype(np.int64)
    worst = 1.0 - np.eye(scores.shape[1])[truth]
    return np.clip(np.where(np.isnan(scores), worst, scores), 0.0, 1.0), truth


def record_brier_scores(scores: FloatArray, labels: IntArray) -> FloatArray:
    """Returns `sum_k (p_k - y_k)^2` of each record, float64 (n,), at most 2."""
    misses = scores - np.eye(scores.shape[1])[labels]
    squares: FloatArray = np.einsum("nk,nk->n", misses, misses)
    return np.minimum(squares, 2.0)


def _count(rows: NDArray[Any], columns: NDArray[Any], shape: tuple[int, int]) -> IntArray:
    flat = np.asarray(rows, dtype=np.int64) * shape[1] + columns
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
