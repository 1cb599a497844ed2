"""The referee of simulations agrees with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from fedpipe.errors import DataError
from fedpipe.learning.exact_metrics import exact_metrics
from tests.scores import binary_records, class_records

Array = NDArray[Any]


class TestExactMetrics:
    def test_binary_metrics_agree_with_scikit_learn(self) -> None:
        scores, labels = binary_records(500, 1.0, np.random.default_rng(1))
        scores = scores.round(2)  # ties
        found = exact_metrics(scores, labels)
        assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
        assert found["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
        assert found["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
        assert found["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
        assert found["accuracy"] == pytest.approx(np.mean((scores >= 0.5) == labels))

    def test_multiclass_metrics_agree_with_scikit_learn(self) -> None:
        scores, labels = class_records(400, 4, np.random.default_rng(2))
        found = exact_metrics(scores, labels)
        assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr"))
        assert found["average_precision"] == pytest.approx(
            reference.average_precision_score(np.eye(4)[labels], scores, average="macro")
        )
        assert found["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
        assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, scores.argmax(axis=1)))

    def test_absent_class_is_left_out_of_the_macro_average(self) -> None:
        scores, labels = class_records(200, 3, np.random.default_rng(3))
        padded = np.pad(scores, ((0, 0), (0, 1)))
        assert exact_metrics(padded, labels)["auc"] == pytest.approx(exact_metrics(scores, labels)["auc"])

    def test_no_records_are_refused(self) -> None:
        with pytest.raises(DataError, match="at least one record"):
            exact_metrics(np.zeros(0), np.zeros(0, dtype=int))
