"""Metrics as functions of histograms that may be noisy, negative or fractional.

Every function works on tables with any leading axes, so that one call serves one histogram
or hundreds of bootstrap replicates. Tables are float64:

    scores                  (..., C, 2, num_bins)  [class, label, bin]; C = 1 if binary, else K
    confusion               (..., K, K)            [true, predicted]; absent if binary
    true_class_probability  (..., num_bins)        absent if binary
    brier                   (..., num_bins)        absent if binary

On raw noisy tables the metrics are ratios of sums and products of *independent* noisy
counts, hence nearly unbiased; on the denoised table they vary less and lean towards chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedpipe.errors import DataError
from fedpipe.learning.score_histograms import (
    BINARY,
    BRIER,
    CONFUSION,
    TRUE_CLASS,
    FloatArray,
    IntArray,
    ScoreBins,
    brier_edges,
    class_histogram,
    num_histograms,
)

Tables = Mapping[str, FloatArray]

METRIC_NAMES = ("auc", "average_precision", "log_loss", "brier", "accuracy", "majority_accuracy")

SOME = 0.5  # a noisy count below half a record cannot be told from none


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Finite edges of the score bins, logits (num_bins + 1,), and of the Brier bins, (num_bins + 1,)."""

    logit: FloatArray
    brier: FloatArray

    @classmethod
    def of(cls, bins: ScoreBins) -> Edges:
        """Returns the edges of `bins`."""
        return cls(logit=bins.logit_edges(), brier=brier_edges(bins.num_bins))

    def scores(self) -> FloatArray:
        """Returns the probability that stands for each bin, its geometric midpoint in odds, (num_bins,)."""
        return np.asarray(1 / (1 + np.exp(-_middles(self.logit))), dtype=np.float64)

    def log_losses(self) -> FloatArray:
        """Returns the log loss of label 0 and 1 in each bin, float64 (2, num_bins)."""
        logits = _middles(self.logit)
        return np.stack([np.logaddexp(0, logits), np.logaddexp(0, -logits)])


def stack_tables(histograms: Mapping[str, IntArray], bins: ScoreBins) -> dict[str, FloatArray]:
    """Returns the tables of the summed histograms of `score_histograms`.

    Raises:
      DataError: a histogram is missing, unknown or of the wrong shape.
    """
    classes = len(histograms[CONFUSION]) if CONFUSION in histograms else 2
    names = [BINARY] if classes == 2 else [class_histogram(k) for k in range(classes)]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (2, bins.num_bins))
    if classes > 2:
        shapes |= {CONFUSION: (classes, classes), TRUE_CLASS: (bins.num_bins,), BRIER: (bins.num_bins,)}
    found = {name: np.shape(counts) for name, counts in histograms.items()}
    if found != shapes or len(found) != num_histograms(classes):
        raise DataError(f"Expected histograms {shapes}, found {found}. Did all clients use the same bins?")
    tables = {name: np.asarray(histograms[name], dtype=np.float64) for name in shapes if name not in names}
    tables[BINARY] = np.stack([np.asarray(histograms[name], dtype=np.float64) for name in names])
    return tables


def num_classes(tables: Tables) -> int:
    """Returns K."""
    return tables[CONFUSION].shape[-1] if CONFUSION in tables else 2


def estimate_total(tables: Tables) -> float:
    """Returns the number of records behind the tables of one evaluation; see `pooled_totals`."""
    return float(pooled_totals(tables))


def pooled_totals(tables: Tables) -> FloatArray:
    """Returns the number of records, float64 (...,), averaged over histograms by inverse variance.

    The noise of a histogram's total has a variance proportional to its number of cells.
    """
    totals, weights = [], []
    for name, table in tables.items():
        histograms = _by_cell(name, table)
        sums = histograms.sum(axis=-1)
        totals.append(sums if name == BINARY else sums[..., None])
        weights.append(np.full(totals[-1].shape[-1], 1 / histograms.shape[-1]))
    return np.asarray(np.average(np.concatenate(totals, axis=-1), axis=-1, weights=np.concatenate(weights)))


def denoise(tables: Tables, total: float) -> dict[str, FloatArray]:
    """Returns the nearest non-negative tables whose histograms each count `total` records.

    Chosen in simulation (binary, 40 to 5000 records, noise of standard deviation 2 to 15 per
    cell). Root mean squared error of the AUC of 100 records, noise 5, 20 bins: 0.06 against
    0.31 of the raw counts for a useless model, 0.18 against 0.25 at AUC 0.76; where the
    signal is strong the two differ little. Its price is a bias towards chance (-0.12 in the
    second case), which the intervals allow for. Clipping cells at 0 invents records: the log
    loss of 5000 records, 2 % positive, noise 15, was off by 0.08 instead of 0.05.
    """
    return {
        name: project_to_simplex(_by_cell(name, table), max(total, 0.0)).reshape(table.shape)
        for name, table in tables.items()
    }


def project_to_simplex(counts: FloatArray, total: float) -> FloatArray:
    """Returns the Euclidean projection of (..., n) onto {x >= 0, sum x = total}.

    Sort-and-threshold (Duchi, Shalev-Shwartz, Singer, Chandra 2008, ICML, figure 1).

    >>> project_to_simplex(np.array([3.0, 1.0, -2.0]), 3.0)
    array([2.5, 0.5, 0. ])
    """
    descending = -np.sort(-counts, axis=-1)
    ranks = np.arange(1, counts.shape[-1] + 1)
    thresholds = (np.cumsum(descending, axis=-1) - total) / ranks
    support = np.maximum((descending > thresholds).sum(axis=-1, keepdims=True), 1)
    chosen: FloatArray = np.take_along_axis(thresholds, support - 1, axis=-1)
    return np.maximum(counts - chosen, 0.0)


def metric_values(tables: Tables, edges: Edges, *, missing: FloatArray, skip: bool) -> FloatArray:
    """Returns the metrics in the order of METRIC_NAMES, float64 (..., 6).

    Args:
      tables: raw or denoised.
      edges: of the bins of `tables`.
      missing: float64 (6,), what stands for a metric that the counts leave undefined.
      skip: whether the macro average leaves out the classes without a positive or a negative
        record, as the definition says; otherwise they enter with `missing`.
    """
    scores = tables[BINARY]
    enough = (scores.sum(axis=-1) > SOME).all(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ranking = [_area_under_roc(scores), _average_precision(scores)]
        macro = [
            _macro(values, enough, fill, skip) for values, fill in zip(ranking, missing[:2], strict=True)
        ]
        means = _multiclass_means(tables, edges) if CONFUSION in tables else _binary_means(scores, edges)
    return np.stack(
        [*macro, *(np.where(np.isfinite(m), m, f) for m, f in zip(means, missing[2:], strict=True))], -1
    )


def metric_limits(tables: Tables, edges: Edges) -> tuple[FloatArray, FloatArray]:
    """Returns the least and the largest value of each metric, float64 (6,) twice.

    The log loss is bounded by what the outermost bins can express.
    """
    classes = num_classes(tables)
    largest_loss = float(edges.log_losses().max())
    largest_brier = 1.0 if classes == 2 else 2.0
    return (
        np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1 / classes]),
        np.array([1.0, 1.0, largest_loss, largest_brier, 1.0, 1.0]),
    )


def merge_bins(tables: Tables, edges: Edges) -> tuple[dict[str, FloatArray], Edges]:
    """Returns the tables and edges with neighbouring bins joined in pairs (an odd last one stays)."""
    starts = np.arange(0, len(edges.logit) - 1, 2)
    kept = np.append(starts, len(edges.logit) - 1)
    merged = {n: t if n == CONFUSION else np.add.reduceat(t, starts, axis=-1) for n, t in tables.items()}
    return merged, Edges(logit=edges.logit[kept], brier=edges.brier[kept])


def _area_under_roc(scores: FloatArray) -> FloatArray:
    """P(positive above negative), ties one half (Hanley and McNeil 1982, Radiology 143)."""
    negatives, positives = scores[..., 0, :], scores[..., 1, :]
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    return np.asarray((positives * below).sum(-1) / (negatives.sum(-1) * positives.sum(-1)))


def _average_precision(scores: FloatArray) -> FloatArray:
    """Mean over positives of the precision at their score, within a bin at the bin's middle.

    The middle stands for the average over a random order within the bin: the precision at
    the bin's end would be too low by half a bin.
    """
    above = np.flip(np.cumsum(np.flip(scores, axis=-1), axis=-1), axis=-1) - scores / 2
    flagged = above.sum(axis=-2)
    prevalence = scores[..., 1, :].sum(-1) / scores.sum(axis=(-1, -2))
    precision = np.where(flagged > 0, np.clip(above[..., 1, :] / flagged, 0.0, 1.0), prevalence[..., None])
    return np.asarray((scores[..., 1, :] * precision).sum(-1) / scores[..., 1, :].sum(-1))


def _macro(values: FloatArray, enough: FloatArray, fill: float, skip: bool) -> FloatArray:
    usable = enough & np.isfinite(values)
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], fill)
    if not skip:
        return np.asarray(np.where(usable, values, fill).mean(axis=-1))
    mean = np.where(usable, values, 0.0).sum(axis=-1) / usable.sum(axis=-1)
    return np.where(usable.any(axis=-1), mean, fill)


def _middles(edges: FloatArray) -> FloatArray:
    return (edges[1:] + edges[:-1]) / 2


def _binary_means(scores: FloatArray, edges: Edges) -> list[FloatArray]:
    """Log loss, Brier score, accuracy and majority accuracy, NaN where there are no records."""
    table, score = scores[..., 0, :, :], edges.scores()
    labels = table.sum(axis=-1)
    total = _positive(labels.sum(axis=-1))
    squares = np.stack([score**2, (1 - score) ** 2])
    right = np.stack([score < 0.5, score >= 0.5]).astype(np.float64)
    sums = [(table * weight).sum(axis=(-1, -2)) for weight in (edges.log_losses(), squares, right)]
    return [value / total for value in (*sums, labels.max(axis=-1))]


def _multiclass_means(tables: Tables, edges: Edges) -> list[FloatArray]:
    """As `_binary_means`, from the histograms that only several classes have.

    Right answers fill K of K^2 cells: divided by the noisy sum of all K^2, they would be several
    times less certain than divided by the number of records that all histograms agree on.
    """
    truth, brier, confusion = tables[TRUE_CLASS], tables[BRIER], tables[CONFUSION]
    total = _positive(pooled_totals(tables))
    return [
        (truth * edges.log_losses()[1]).sum(-1) / _positive(truth.sum(-1)),
        (brier * _middles(edges.brier)).sum(-1) / _positive(brier.sum(-1)),
        np.trace(confusion, axis1=-2, axis2=-1) / total,
        confusion.sum(axis=-1).max(axis=-1) / total,
    ]


def _positive(totals: FloatArray) -> FloatArray:
    return np.where(totals > SOME, totals, np.nan)


def _by_cell(name: str, table: FloatArray) -> FloatArray:
    """Returns the table with the cells of each histogram on one axis."""
    two_axes = name in (BINARY, CONFUSION)
    return table.reshape(*table.shape[:-2], -1) if two_axes else table
