"""Calibration and ROC curves of one binary or one-vs-rest histogram, for a report.

Post-processing of a noisy histogram: no privacy cost, and no more truth than the noise left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fedpipe.learning.binned_metrics import SOME, Edges, denoise, estimate_total, stack_tables
from fedpipe.learning.score_histograms import BINARY, FloatArray, ScoreBins


class ReliabilityPoint(BaseModel):
    """One bin of a calibration curve; a calibrated model has equal first two fields.

    Attributes:
      mean_predicted: the probability that stands for the bin.
      observed_rate: share of positives in the bin.
      count: estimated records in the bin.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean_predicted: float
    observed_rate: float
    count: float


class RocPoint(BaseModel):
    """The rates of a classifier that says yes from `threshold` on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    false_positive_rate: float
    true_positive_rate: float


def reliability_curve(histogram: NDArray[np.int64], bins: ScoreBins) -> tuple[ReliabilityPoint, ...]:
    """Returns a point per bin that holds records after denoising, by ascending score.

    Args:
      histogram: summed, possibly noisy, int64 (2, num_bins): `scores` or one `scores_k`.
      bins: its bins.
    """
    table = _denoised(histogram, bins)
    counts, scores = table.sum(axis=0), Edges.of(bins).scores()
    return tuple(
        ReliabilityPoint(mean_predicted=score, observed_rate=positives / count, count=count)
        for score, positives, count in zip(scores.tolist(), table[1].tolist(), counts.tolist(), strict=True)
        if count > SOME
    )


def roc_curve(histogram: NDArray[np.int64], bins: ScoreBins) -> tuple[RocPoint, ...]:
    """Returns the `num_bins + 1` points of the ROC curve from (0, 0) to (1, 1).

    A label without records contributes the diagonal's rate, 0 before and 1 at the last point.

    Args:
      histogram: summed, possibly noisy, int64 (2, num_bins).
      bins: its bins.
    """
    table = _denoised(histogram, bins)
    above = np.pad(np.cumsum(table[:, ::-1], axis=1), ((0, 0), (1, 0)))
    totals = above[:, -1:]
    rates = np.where(totals > SOME, above / np.maximum(totals, SOME), 0.0)
    rates[:, -1] = 1.0
    points = zip(reversed(bins.edges), rates[0].tolist(), rates[1].tolist(), strict=True)
    return tuple(RocPoint(threshold=t, false_positive_rate=f, true_positive_rate=p) for t, f, p in points)


def _denoised(histogram: NDArray[np.int64], bins: ScoreBins) -> FloatArray:
    tables = stack_tables({BINARY: histogram}, bins)
    table: FloatArray = denoise(tables, estimate_total(tables))[BINARY][0]
    return table
