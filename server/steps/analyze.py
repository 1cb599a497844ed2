"""Analyze: noisy score histograms of held-out records, and the metrics behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fedpipe.config import AnalyzeSettings
from fedpipe.data import Transform
from fedpipe.federation import Reply, Request
from fedpipe.federation.messages import sum_counts
from fedpipe.learning.evaluation import better_than_chance, estimate_metrics
from fedpipe.learning.score_curves import reliability_curve, roc_curve
from fedpipe.learning.score_histograms import BINARY, ScoreBins, histogram_shapes
from server.artifacts import Evaluation, Model, Spans, Statistics
from server.steps.asking import Asker
from server.steps.slicing import client_slices, column_slices, slice_shapes, slice_values


def analyze(
    spans: Spans,
    statistics: Statistics,
    transform: Transform,
    model: Model,
    *,
    directory: Path,
    asker: Asker,
    settings: AnalyzeSettings,
    weights_directory: Path,
    seed: int,
) -> dict[str, Evaluation]:
    """Returns the Evaluation: private estimates with intervals."""
    num_classes = asker.terms.data_schema.num_classes
    rate = _base_rate(statistics, num_classes)
    bins = ScoreBins.around(rate, settings.num_bins)
    slice_bins = _slice_bins(rate, num_classes, settings)
    scored = histogram_shapes(num_classes, bins.num_bins)
    weights = np.load(weights_directory / model.weights_file, allow_pickle=False)
    replies = asker.ask(
        Request(
            run_id=asker.run_id,
            step="analyze",
            values={"transform": transform.model_dump(mode="json"), "bins": bins.model_dump(mode="json")}
            | slice_values(settings.slices, slice_bins),
            arrays={"weights": weights},
        ),
        among=spans.clients,
        counts=scored | slice_shapes(settings.slices, slice_bins, transform),
    )
    generator = np.random.default_rng(seed)
    overall = _overall(replies, scored, bins, asker.noise_stddev("evaluation"), generator)
    slices = (
        client_slices(replies, bins, noise_stddev=asker.noise_stddev("evaluation"), generator=generator),
        *column_slices(
            replies, settings.slices, slice_bins, asker=asker, transform=transform, generator=generator
        ),
    )
    return {"evaluation": overall.model_copy(update={"slices": slices})}


def _overall(
    replies: Sequence[Reply],
    scored: Iterable[str],
    bins: ScoreBins,
    noise_stddev: float,
    generator: np.random.Generator,
) -> Evaluation:
    """Returns what the histograms named `scored`, each client's with its own noise, say of all records."""
    sums = {name: sum_counts(replies, name) for name in scored}
    metrics = estimate_metrics(
        sums, bins, noise_stddev=noise_stddev, num_clients=len(replies), generator=generator
    )
    binary = sums.get(BINARY)
    return Evaluation(
        metrics=metrics,
        better_than_chance=better_than_chance(metrics),
        reliability=reliability_curve(binary, bins) if binary is not None else (),
        roc=roc_curve(binary, bins) if binary is not None else (),
        noise_stddev=noise_stddev * len(replies) ** 0.5,
    )


def _slice_bins(rate: float, num_classes: int, settings: AnalyzeSettings) -> ScoreBins:
    # With several classes a slice counts the probability of the best one, which is anything above 1/K.
    return ScoreBins.around(rate if num_classes == 2 else 0.5, settings.slice_bins)


def _base_rate(statistics: Statistics, num_classes: int) -> float:
    """Returns the rate of positives as `validate` saw it; the even rate for several classes."""
    if num_classes > 2:
        return 1 / num_classes
    negative, positive, _ = (max(count, 1) for count in statistics.class_counts("train"))
    return positive / (negative + positive)
