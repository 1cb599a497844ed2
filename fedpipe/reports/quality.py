"""Metrics and curves of a run, placed for drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpipe.learning.evaluation import Estimate, Metrics
from fedpipe.reports.evidence import Curves
from fedpipe.reports.summary import SimulationOnly
from fedpipe.reports.wording import figure

CURVE_SIZE = 240.0
_LARGEST_DOT, _SMALLEST_DOT = 9.0, 3.5
_SURE_DEVIATIONS = 2.0
_WORDS = {
    "auc": ("AUC", "chance that a positive scores above a negative"),
    "average_precision": ("Average precision", "precision, averaged over the positives"),
    "accuracy": ("Accuracy", "share of right answers"),
    "log_loss": ("Log loss", "in nats; lower is better"),
    "brier": ("Brier score", "mean squared error of probabilities; lower is better"),
    "majority_accuracy": ("Majority accuracy", "what always giving the most frequent class reaches"),
}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a model that knows nothing of a record reaches."""

    value: float
    words: str


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """A metric in words and as places, 0 to 100, on the scale from 0 to `scale_end`."""

    name: str
    title: str
    meaning: str
    value: Estimate
    reference: Reference | None
    scale_end: float

    def place(self, value: float) -> float:
        """Returns where `value` lies on the scale, in per cent."""
        return round(100 * min(max(value / self.scale_end, 0.0), 1.0), 2)


@dataclass(frozen=True, kw_only=True)
class SimulatedRow:
    """A metric beside what only a simulation can know of it."""

    title: str
    value: Estimate
    exact: float | None
    baseline: float | None

    @property
    def held(self) -> str:
        """Whether the private interval holds the exact value."""
        if self.exact is None:
            return ""
        return "yes" if self.value.lower <= self.exact <= self.value.upper else "no"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point of the calibration curve. `unsure` ones hold fewer records than the noise could make up."""

    x: float
    y: float
    radius: float
    unsure: bool
    words: str


def metric_rows(metrics: Metrics, eval_counts: Sequence[float]) -> tuple[MetricRow, ...]:
    """Returns a row for each metric.

    Args:
      metrics: the private estimates.
      eval_counts: noisy held-out records of each class.
    """
    references = _references(metrics, eval_counts)
    values: dict[str, Estimate] = dict(metrics)
    return tuple(
        _metric_row(name, title, meaning, values[name], references.get(name))
        for name, (title, meaning) in _WORDS.items()
    )


def simulated_rows(metrics: Metrics, known: SimulationOnly) -> tuple[SimulatedRow, ...]:
    """Returns every metric beside its exact value and the baseline's."""
    values: dict[str, Estimate] = dict(metrics)
    return tuple(
        SimulatedRow(
            title=title,
            value=values[name],
            exact=known.exact_metrics.get(name),
            baseline=known.baseline.get(name),
        )
        for name, (title, _) in _WORDS.items()
    )


def roc_points(curves: Curves) -> str:
    """Returns the ROC curve as SVG points in a square of CURVE_SIZE."""
    places = (_place(point.false_positive_rate, point.true_positive_rate) for point in curves.roc)
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def calibration_dots(curves: Curves) -> tuple[Dot, ...]:
    """Returns the calibration curve, larger dots for more records."""
    largest = max((point.count for point in curves.reliability), default=1.0)
    least = _SURE_DEVIATIONS * math.sqrt(2) * curves.noise_stddev
    dots = []
    for point in curves.reliability:
        x, y = _place(point.mean_predicted, point.observed_rate)
        radius = max(_LARGEST_DOT * math.sqrt(max(point.count, 0.0) / largest), _SMALLEST_DOT)
        words = (
            f"predicted {figure(point.mean_predicted)}, observed {figure(point.observed_rate)}, "
            f"about {point.count:.0f} records"
        )
        dots.append(Dot(x=x, y=y, radius=round(radius, 1), unsure=point.count < least, words=words))
    return tuple(dots)


def _place(x: float, y: float) -> tuple[float, float]:
    return round(CURVE_SIZE * x, 1), round(CURVE_SIZE * (1 - y), 1)


def _metric_row(
    name: str, title: str, meaning: str, value: Estimate, reference: Reference | None
) -> MetricRow:
    end = 1.0
    if name in ("log_loss", "brier"):
        end = 1.1 * max(value.upper, reference.value if reference else 0.0, 0.1)
    return MetricRow(name=name, title=title, meaning=meaning, value=value, reference=reference, scale_end=end)


def _references(metrics: Metrics, eval_counts: Sequence[float]) -> dict[str, Reference]:
    references = {
        "auc": Reference(value=0.5, words="chance"),
        "accuracy": Reference(value=metrics.majority_accuracy.estimate, words="most frequent class"),
    }
    counts = [max(float(each), 0.0) for each in eval_counts]
    total = sum(counts)
    if total <= 0:
        return references
    shares = [each / total for each in counts]
    binary = len(shares) == 2
    squares = 1 - math.fsum(share**2 for share in shares)
    entropy = -math.fsum(share * math.log(share) for share in shares if share > 0)
    precision = shares[1] if binary else 1 / len(shares)
    return references | {
        "average_precision": Reference(value=precision, words="random order"),
        "log_loss": Reference(value=entropy, words="class shares"),
        "brier": Reference(value=squares / 2 if binary else squares, words="class shares"),
    }
