from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from fedpipe.ledger.certificate import Certificate
from fedpipe.reports.evidence import RunEvidence
from fedpipe.reports.quality import calibration_dots, metric_rows, roc_points, simulated_rows
from fedpipe.reports.summary import RunSummary


@pytest.fixture
def summary(
    make_certificate_of: Callable[..., Certificate], make_summary: Callable[..., RunSummary]
) -> RunSummary:
    return make_summary(make_certificate_of(), simulated=True)


@pytest.fixture
def evidence(
    make_certificate_of: Callable[..., Certificate], make_evidence: Callable[..., RunEvidence]
) -> RunEvidence:
    return make_evidence(make_certificate_of())


def test_places_are_per_cents_of_the_scale(summary: RunSummary) -> None:
    rows = {row.name: row for row in metric_rows(summary.metrics, [3, 1])}
    auc, loss = rows["auc"], rows["log_loss"]
    assert [auc.place(value) for value in (0.8, 0.85, 2.0, -1.0)] == [80, 85, 100, 0]
    assert loss.place(loss.scale_end) == 100
    assert loss.value.upper < loss.scale_end


def test_references_are_what_constants_reach(summary: RunSummary) -> None:
    rows = {row.name: row.reference for row in metric_rows(summary.metrics, [3, 1])}
    values = {name: reference.value for name, reference in rows.items() if reference}
    assert values == pytest.approx(
        {
            "auc": 0.5,
            "accuracy": 0.55,
            "average_precision": 0.25,
            "log_loss": -0.75 * math.log(0.75) - 0.25 * math.log(0.25),
            "brier": 0.25 * 0.75,
        }
    )


@pytest.mark.parametrize("counts", [[0, 0], [-5, -1], []])
def test_counts_drowned_in_noise_give_no_reference(summary: RunSummary, counts: list[float]) -> None:
    rows = metric_rows(summary.metrics, counts)
    assert {row.name for row in rows if row.reference} == {"auc", "accuracy"}


def test_several_classes_have_even_average_precision(summary: RunSummary) -> None:
    rows = {row.name: row.reference for row in metric_rows(summary.metrics, [2, 1, 1])}
    precision, brier = rows["average_precision"], rows["brier"]
    assert precision is not None
    assert precision.value == pytest.approx(1 / 3)
    assert brier is not None
    assert brier.value == pytest.approx(1 - 0.25 - 2 / 16)


def test_roc_starts_below_left_and_ends_above_right(evidence: RunEvidence) -> None:
    assert roc_points(evidence.curves) == "0,240 60,60 240,0"


def test_dots_with_few_records_are_unsure(evidence: RunEvidence) -> None:
    sure, unsure = calibration_dots(evidence.curves)
    assert (sure.x, sure.y, sure.unsure) == (60, 120, False)
    assert unsure.unsure
    assert unsure.radius < sure.radius


def test_simulated_rows_say_whether_the_interval_held(summary: RunSummary) -> None:
    assert summary.simulation_only is not None
    auc, *rest = simulated_rows(summary.metrics, summary.simulation_only)
    assert (auc.exact, auc.baseline, auc.held) == (0.87654, 0.95432, "yes")
    assert {row.held for row in rest} == {""}
