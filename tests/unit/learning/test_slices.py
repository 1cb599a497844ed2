"""Slices: shares with honest intervals, and silence about what is too small."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedpipe.learning.score_histograms import ScoreBins, slice_histogram
from fedpipe.learning.slices import (
    Slice,
    SliceGroup,
    estimate_accuracies,
    estimate_count,
    estimate_slices,
    mean_score,
    share_estimate,
)

BINS = ScoreBins.around(0.3, 10)


def table(num_records: int, *, rate: float = 0.3, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_records) < rate).astype(int)
    scores = 1 / (1 + np.exp(-(rng.normal(size=num_records) + labels - 1)))
    return slice_histogram(scores, labels, np.zeros(num_records, int), 1, BINS)[0]


def group(tables: dict[str, np.ndarray], noise_stddev: float = 0.0, binary: bool = True) -> SliceGroup:
    return estimate_slices(
        "town",
        tables,
        BINS,
        binary=binary,
        noise_stddev=noise_stddev,
        num_clients=4,
        generator=np.random.default_rng(0),
    )


@pytest.mark.parametrize(
    # Wilson's interval, as Newcombe 1998 (Statistics in Medicine 17) prints it for 81 of 263 and 15 of 148.
    ("hits", "misses", "lower", "upper"),
    [(81, 182, 0.2553, 0.3662), (15, 133, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 28, 0.0061, 0.1718)],
)
def test_without_noise_the_interval_is_wilson_s(hits: int, misses: int, lower: float, upper: float) -> None:
    found = share_estimate(hits, misses)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=1e-4)


def test_noise_makes_the_interval_longer_up_to_everything() -> None:
    lengths = []
    for variance in (0.0, 100.0, 1000.0, 1e6):
        found = share_estimate(30, 70, hits_variance=variance, misses_variance=variance)
        lengths.append(found.upper - found.lower)
    assert lengths == sorted(lengths)
    assert lengths[-1] == 1


@pytest.mark.parametrize("counts", [(0.0, 0.0), (-5.0, 2.0), (-40.0, 90.0), (90.0, -40.0)])
def test_any_noisy_counts_give_a_share(counts: tuple[float, float]) -> None:
    found = share_estimate(*counts, hits_variance=900.0, misses_variance=900.0)
    assert 0 <= found.lower <= found.estimate <= found.upper <= 1


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(1000):
        hits = rng.binomial(400, 0.2)
        noisy = (hits + rng.normal(0, 12), 400 - hits + rng.normal(0, 20))
        found = share_estimate(*noisy, hits_variance=144, misses_variance=400)
        held += found.lower <= 0.2 <= found.upper
    assert 0.92 <= held / 1000 <= 0.98


def test_a_count_allows_for_the_noise_of_all_its_cells() -> None:
    found = estimate_count(np.full((2, 8), 10), 2.0)
    assert (found.estimate, found.upper) == (160, pytest.approx(160 + 1.96 * 8))
    assert estimate_count(np.full((2, 8), -10), 2.0).upper == 0


def test_the_mean_score_is_that_of_the_records() -> None:
    rng = np.random.default_rng(1)
    scores = 1 / (1 + np.exp(-rng.normal(-1, 1, 5000)))
    counts = slice_histogram(scores, np.zeros(5000, int), np.zeros(5000, int), 1, BINS)[0]
    found = mean_score(counts, BINS, 0.0)
    assert found.lower <= scores.mean() <= found.upper
    assert found.upper - found.lower < 0.08


def test_small_slices_are_named_without_any_figure() -> None:
    found = group({"small": table(20), "large": table(600), "none": table(0)})
    assert [each.name for each in found.slices] == ["large"]
    assert found.too_few == ("none", "small")


def test_noise_alone_is_too_few_to_say() -> None:
    """Hundred empty categories under loud noise: hardly one of them may get a figure."""
    rng = np.random.default_rng(5)
    noise = {f"c{n}": np.round(rng.normal(0, 20, (2, 10))).astype(int) for n in range(100)}
    assert len(group(noise, noise_stddev=10.0).slices) <= 1


def test_slices_are_ordered_by_size_and_have_an_auc_with_two_classes() -> None:
    found = group({"b": table(300), "a": table(900, seed=1)})
    assert [each.name for each in found.slices] == ["a", "b"]
    first = found.slices[0]
    assert first.auc is not None
    assert first.auc.lower < 0.76 < first.auc.upper  # Phi(1 / sqrt 2)
    assert group({"a": table(900)}, binary=False).slices[0].auc is None


def test_accuracy_by_client_comes_from_the_confusion_counts() -> None:
    confusion = np.array([[90, 5, 5], [5, 90, 5], [0, 10, 90]])
    found = estimate_accuracies("client", {"a": confusion, "b": confusion // 50}, noise_stddev=1.0)
    assert found.slices[0].observed.estimate == pytest.approx(0.9)
    assert found.too_few == ("b",)
    assert math.isclose(found.slices[0].count.estimate, 300)


@pytest.mark.parametrize(("predicted", "expected"), [((0.1, 0.2), True), ((0.1, 0.35), False)])
def test_a_slice_is_miscalibrated_when_the_intervals_lie_apart(
    predicted: tuple[float, float], expected: bool
) -> None:
    count = estimate_count(np.array([[100]]), 0.0)
    observed = share_estimate(40, 60)
    model = observed.model_copy(update={"lower": predicted[0], "upper": predicted[1], "estimate": 0.15})
    assert Slice(name="a", count=count, observed=observed, predicted=model).miscalibrated is expected
