"""Metrics from histograms, with and without noise, and the honesty of their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fedpipe.errors import ConfigError, DataError
from fedpipe.learning.binned_metrics import METRIC_NAMES, denoise, project_to_simplex
from fedpipe.learning.evaluation import Estimate, Metrics, better_than_chance, estimate_metrics
from fedpipe.learning.exact_metrics import exact_metrics
from fedpipe.learning.score_histograms import ScoreBins, score_histograms
from tests.scores import binary_records, class_records

Array = NDArray[Any]
Histograms = Mapping[str, NDArray[np.int64]]


def add_noise(
    histograms: Histograms, stddev: float, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    return {
        name: counts + np.rint(stddev * rng.normal(size=counts.shape)).astype(np.int64)
        for name, counts in histograms.items()
    }


def evaluate(histograms: Histograms, bins: ScoreBins, stddev: float = 0.0, replicates: int = 100) -> Metrics:
    return estimate_metrics(
        histograms,
        bins,
        noise_stddev=stddev,
        num_clients=1,
        generator=np.random.default_rng(0),
        num_replicates=replicates,
    )


def values_of(metrics: Metrics) -> dict[str, float]:
    return {name: getattr(metrics, name).estimate for name in METRIC_NAMES}


class TestEstimates:
    def test_auc_of_a_hand_computed_histogram(self) -> None:
        # 3 positives, 4 negatives: (1 * 0.5*2 + 2 * (2 + 2*0.5)) / 12 with the ties one half.
        bins = ScoreBins.around(0.5, 4)
        counts = {"scores": np.array([[2, 0, 2, 0], [1, 0, 2, 0]])}
        assert evaluate(counts, bins).auc.estimate == pytest.approx((1 * 1 + 2 * 3) / 12)

    def test_accuracy_and_majority_of_a_hand_computed_histogram(self) -> None:
        found = evaluate({"scores": np.array([[5, 1, 2, 0], [1, 1, 3, 7]])}, ScoreBins.around(0.5, 4))
        assert found.accuracy.estimate == pytest.approx(16 / 20)
        assert found.majority_accuracy.estimate == pytest.approx(12 / 20)

    def test_average_precision_of_uninformative_scores_is_the_prevalence(self) -> None:
        found = evaluate({"scores": np.array([[0, 30, 0, 0], [0, 10, 0, 0]])}, ScoreBins.around(0.5, 4))
        assert found.average_precision.estimate == pytest.approx(0.25)
        assert found.auc.estimate == pytest.approx(0.5)

    def test_fine_bins_without_noise_agree_with_exact_binary_metrics(self) -> None:
        scores, labels = binary_records(4000, 1.5, np.random.default_rng(4))
        bins = ScoreBins.around(0.5, 400)
        found = values_of(evaluate(score_histograms(scores, labels, bins), bins, replicates=10))
        assert found == pytest.approx(exact_metrics(scores, labels), abs=1e-3)
        assert found["accuracy"] == pytest.approx(exact_metrics(scores, labels)["accuracy"], abs=1e-12)

    def test_fine_bins_without_noise_agree_with_exact_multiclass_metrics(self) -> None:
        scores, labels = class_records(4000, 4, np.random.default_rng(5))
        bins = ScoreBins.around(0.25, 400)
        found = values_of(evaluate(score_histograms(scores, labels, bins), bins, replicates=10))
        assert found == pytest.approx(exact_metrics(scores, labels), abs=3e-3)

    def test_twenty_bins_are_close_and_their_error_lies_within_the_interval(self) -> None:
        scores, labels = binary_records(200_000, 1.0, np.random.default_rng(6))
        bins, exact = ScoreBins.around(0.5, 20), exact_metrics(scores, labels)
        found = evaluate(score_histograms(scores, labels, bins), bins)
        assert values_of(found) == pytest.approx(exact, abs=0.01)
        assert all(
            getattr(found, name).lower <= exact[name] <= getattr(found, name).upper for name in METRIC_NAMES
        )

    def test_auc_grows_when_positives_move_up(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        areas = [
            evaluate({"scores": np.array([[10, 5, 3, 2], positives])}, bins).auc.estimate
            for positives in ([8, 6, 4, 2], [4, 6, 6, 4], [2, 4, 6, 8], [0, 0, 0, 20])
        ]
        assert areas == sorted(areas)

    def test_more_noise_means_wider_intervals(self) -> None:
        scores, labels = binary_records(2000, 1.0, np.random.default_rng(7))
        bins = ScoreBins.around(0.5)
        counts = score_histograms(scores, labels, bins)
        widths = [
            (m := evaluate(counts, bins, stddev)).auc.upper - m.auc.lower for stddev in (0.0, 5.0, 20.0)
        ]
        assert widths == sorted(widths)

    def test_noise_of_many_clients_adds_up(self) -> None:
        scores, labels = binary_records(2000, 1.0, np.random.default_rng(8))
        bins = ScoreBins.around(0.5)
        counts = score_histograms(scores, labels, bins)
        generators = [np.random.default_rng(0) for _ in range(2)]
        many = estimate_metrics(counts, bins, noise_stddev=5, num_clients=4, generator=generators[0])
        assert many == estimate_metrics(counts, bins, noise_stddev=10, num_clients=1, generator=generators[1])


class TestAccuracyOfManyClasses:
    def trials(self, stddev: float) -> tuple[list[Metrics], float]:
        rng, bins = np.random.default_rng(21), ScoreBins.around(0.1)
        scores, labels = class_records(360, 10, rng)
        counts = score_histograms(scores, labels, bins)
        found = [evaluate(add_noise(counts, stddev, rng), bins, stddev, 60) for _ in range(40)]
        return found, exact_metrics(scores, labels)["accuracy"]

    def test_noise_does_not_lower_the_estimate(self) -> None:
        found, exact = self.trials(6.0)
        assert np.mean([each.accuracy.estimate for each in found]) == pytest.approx(exact, abs=0.02)

    def test_the_interval_holds_it_and_is_as_narrow_as_the_right_answers_allow(self) -> None:
        found, exact = self.trials(6.0)
        held = np.mean([each.accuracy.lower <= exact <= each.accuracy.upper for each in found])
        assert held >= 0.9
        # Ten cells of noise over 360 records: 6 * sqrt(10) / 360 = 0.05; all hundred would give 0.17.
        assert np.mean([each.accuracy.upper - each.accuracy.lower for each in found]) < 0.3


class TestDenoising:
    def test_projection_keeps_the_total_and_is_not_negative(self) -> None:
        counts = np.random.default_rng(9).normal(2, 10, size=(50, 12))
        found = project_to_simplex(counts, 24.0)
        assert found.min() >= 0
        assert found.sum(axis=-1) == pytest.approx(np.full(50, 24.0))

    def test_denoising_leaves_exact_counts_alone(self) -> None:
        tables = {"scores": np.array([[[3.0, 0, 1, 2], [0, 4, 0, 1]]])}
        assert denoise(tables, 11.0)["scores"] == pytest.approx(tables["scores"])

    def test_estimates_near_chance_are_not_biased(self) -> None:
        rng, bins = np.random.default_rng(10), ScoreBins.around(0.5)
        areas = []
        for _ in range(150):
            counts = score_histograms(rng.uniform(0.3, 0.7, 120), rng.integers(2, size=120), bins)
            areas.append(evaluate(add_noise(counts, 5.0, rng), bins, 5.0, replicates=2).auc.estimate)
        assert np.mean(areas) == pytest.approx(0.5, abs=0.02)


class TestEdgeCases:
    @pytest.mark.parametrize("stddev", [0.0, 5.0])
    @pytest.mark.parametrize("classes", [2, 3, 10])
    @pytest.mark.parametrize("fill", [0, -3])
    def test_no_records_give_the_whole_range(self, stddev: float, classes: int, fill: int) -> None:
        bins = ScoreBins.around(0.5)
        empty = score_histograms(np.zeros((0, classes)), np.zeros(0, dtype=int), bins)
        found = evaluate({name: counts + fill for name, counts in empty.items()}, bins, stddev)
        assert (found.auc.lower, found.auc.estimate, found.auc.upper) == (0.0, 0.5, 1.0)
        assert (found.accuracy.lower, found.accuracy.upper) == (0.0, 1.0)
        assert not better_than_chance(found)

    def test_chance_of_many_classes_fits_into_coarse_bins(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        found = evaluate(score_histograms(np.zeros((0, 50)), np.zeros(0, dtype=int), bins), bins)
        assert found.log_loss.lower <= found.log_loss.estimate <= found.log_loss.upper

    @pytest.mark.parametrize("label", [0, 1])
    @pytest.mark.parametrize("stddev", [0.0, 3.0])
    def test_one_label_leaves_auc_open(self, label: int, stddev: float) -> None:
        bins = ScoreBins.around(0.5)
        counts = score_histograms(np.linspace(0, 1, 50), np.full(50, label), bins)
        found = evaluate(counts, bins, stddev)
        assert (found.auc.lower, found.auc.estimate, found.auc.upper) == (0.0, 0.5, 1.0)
        assert found.majority_accuracy.estimate == 1.0

    def test_absent_class_is_left_out_without_noise(self) -> None:
        scores, labels = class_records(300, 3, np.random.default_rng(11))
        bins, padded = ScoreBins.around(0.3), np.pad(scores, ((0, 0), (0, 1)))
        found = evaluate(score_histograms(padded, labels, bins), bins).auc
        assert found.estimate == pytest.approx(exact_metrics(padded, labels)["auc"], abs=0.01)
        assert found.upper - found.lower < 0.1

    def test_perfect_scores_of_few_records_leave_room_for_doubt(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        found = evaluate({"scores": np.array([[20, 0, 0, 0], [0, 0, 0, 20]])}, bins, replicates=500)
        assert found.auc.upper == found.accuracy.upper == 1.0
        assert found.accuracy.lower < 0.96
        assert found.auc.lower < 0.98

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(-50, 200), min_size=16, max_size=16), st.floats(0, 30))
    def test_any_counts_give_ordered_intervals_within_range(self, cells: list[int], stddev: float) -> None:
        bins = ScoreBins.around(0.2, 8)
        found = evaluate({"scores": np.array(cells).reshape(2, 8)}, bins, stddev, replicates=20)
        for name in METRIC_NAMES:
            part = getattr(found, name)
            assert 0 <= part.lower <= part.estimate <= part.upper
            assert name == "log_loss" or part.upper <= 1

    def test_foreign_histograms_are_refused(self) -> None:
        with pytest.raises(DataError, match="same bins"):
            evaluate({"scores": np.zeros((2, 9), dtype=np.int64)}, ScoreBins.around(0.5, 8))
        with pytest.raises(DataError, match="same bins"):
            evaluate({}, ScoreBins.around(0.5, 8))

    @pytest.mark.parametrize("wrong", [{"noise_stddev": -1.0}, {"num_clients": 0}, {"num_replicates": 0}])
    def test_impossible_settings_are_refused(self, wrong: dict[str, Any]) -> None:
        bins = ScoreBins.around(0.5, 8)
        arguments: dict[str, Any] = {"noise_stddev": 1.0, "num_clients": 1, "num_replicates": 10, **wrong}
        with pytest.raises(ConfigError, match="Expected noise_stddev"):
            estimate_metrics(
                {"scores": np.ones((2, 8), dtype=np.int64)},
                bins,
                generator=np.random.default_rng(0),
                **arguments,
            )

    def test_disordered_estimate_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="lower"):
            Estimate(estimate=0.5, lower=0.6, upper=0.7)


class TestCoverage:
    TRIALS = 120

    def coverage(self, size: int, stddev: float, declared: float, seed: int) -> dict[str, float]:
        """Share of intervals that hold the population's metric, with the noise declared as `declared`."""
        rng, bins = np.random.default_rng(seed), ScoreBins.around(0.5)
        truth = exact_metrics(*binary_records(200_000, 1.5, rng)) | {"majority_accuracy": 0.5}
        held = dict.fromkeys(METRIC_NAMES, 0)
        for _ in range(self.TRIALS):
            counts = add_noise(score_histograms(*binary_records(size, 1.5, rng), bins), stddev, rng)
            found = evaluate(counts, bins, declared, replicates=200)
            for name in METRIC_NAMES:
                part = getattr(found, name)
                held[name] += part.lower <= truth[name] <= part.upper
        return {name: count / self.TRIALS for name, count in held.items()}

    def test_an_interval_is_no_sliver_where_noise_puts_the_figures_beyond_their_range(self) -> None:
        bins, rng = ScoreBins.around(0.5), np.random.default_rng(31)
        scores, labels = binary_records(110, 4.0, rng)
        exact, held, widths = exact_metrics(scores, labels), 0, []
        counts = score_histograms(scores, labels, bins)
        middle = np.asarray(bins.edges) < 0.5
        while len(widths) < 30:
            noisy = add_noise(counts, 1.9, rng)
            table = noisy["scores"].astype(float)
            wrong = table[0, ~middle[:-1]].sum() + table[1, middle[:-1]].sum()
            if wrong >= 0:
                continue
            found = evaluate(noisy, bins, 1.9).accuracy
            widths.append(found.upper - found.lower)
            held += found.lower <= exact["accuracy"] <= found.upper
        assert held >= 28
        assert min(widths) > 0.08

    @pytest.mark.parametrize(("size", "stddev"), [(60, 0.0), (40, 2.0), (150, 5.0), (150, 15.0)])
    def test_intervals_hold_the_truth(self, size: int, stddev: float) -> None:
        found = self.coverage(size, stddev, stddev, seed=12)
        assert min(found.values()) >= 0.85, found

    def test_intervals_that_forget_the_noise_are_caught(self) -> None:
        found = self.coverage(150, 5.0, 0.0, seed=13)
        assert found["auc"] < 0.7
        assert found["log_loss"] < 0.7

    def test_noise_alone_is_hardly_ever_better_than_chance(self) -> None:
        rng, bins = np.random.default_rng(14), ScoreBins.around(0.5)
        claims = 0
        for _ in range(self.TRIALS):
            counts = score_histograms(rng.uniform(size=150), rng.integers(2, size=150), bins)
            claims += better_than_chance(evaluate(add_noise(counts, 3.0, rng), bins, 3.0))
        assert claims <= 0.06 * self.TRIALS

    def test_a_good_model_is_better_than_chance(self) -> None:
        rng, bins = np.random.default_rng(15), ScoreBins.around(0.5)
        counts = score_histograms(*binary_records(1000, 1.5, rng), bins)
        assert better_than_chance(evaluate(add_noise(counts, 3.0, rng), bins, 3.0))
