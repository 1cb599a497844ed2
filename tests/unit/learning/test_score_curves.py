"""Calibration and ROC curves of histograms."""

from __future__ import annotations

import numpy as np
import pytest

from fedpipe.learning.evaluation import estimate_metrics
from fedpipe.learning.score_curves import reliability_curve, roc_curve
from fedpipe.learning.score_histograms import ScoreBins


class TestCurves:
    COUNTS = np.array([[40, 30, 20, 0], [0, 10, 20, 40]])

    def test_reliability_compares_predicted_with_observed(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        points = reliability_curve(self.COUNTS, bins)
        assert [point.observed_rate for point in points] == pytest.approx([0, 0.25, 0.5, 1])
        assert [point.count for point in points] == pytest.approx([40, 40, 40, 40])
        predicted = [point.mean_predicted for point in points]
        assert all(
            low < p < high for low, p, high in zip(bins.edges, predicted, bins.edges[1:], strict=False)
        )

    def test_roc_runs_from_corner_to_corner_over_the_area(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        points = roc_curve(self.COUNTS, bins)
        falses, trues = [p.false_positive_rate for p in points], [p.true_positive_rate for p in points]
        assert (falses[0], trues[0], falses[-1], trues[-1]) == (0, 0, 1, 1)
        area = np.diff(falses) @ (np.array(trues[1:]) + trues[:-1]) / 2
        assert area == pytest.approx(
            estimate_metrics(
                {"scores": self.COUNTS},
                bins,
                noise_stddev=0,
                num_clients=1,
                generator=np.random.default_rng(0),
            ).auc.estimate
        )

    @pytest.mark.parametrize("fill", [0, -2])
    def test_empty_histogram_has_no_reliability_points(self, fill: int) -> None:
        bins = ScoreBins.around(0.5, 4)
        empty = np.full((2, 4), fill)
        assert reliability_curve(empty, bins) == ()
        assert roc_curve(empty, bins)[-1].true_positive_rate == 1.0

    def test_reliability_skips_bins_that_only_noise_filled(self) -> None:
        points = reliability_curve(np.array([[100, -4, 3, 0], [100, 2, -3, 0]]), ScoreBins.around(0.5, 4))
        assert sum(point.count for point in points) == pytest.approx(198, abs=1)
