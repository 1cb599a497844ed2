"""Label balance by span: counts with or without an axis of spans mean the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from fedpipe.ledger.certificate import Certificate
from fedpipe.reports.evidence import DataCounts, RunEvidence
from fedpipe.reports.run_report import render_report
from fedpipe.reports.spans import all_spans, span_rows
from fedpipe.reports.summary import RunSummary
from fedpipe.reports.tables import class_rows, client_table

QUIET, LOUD = [[800, 200, 3], [80, 20, 0]], [[500, 500, 3], [50, 50, 0]]
NAMES = ("no", "yes")


def counts(stddev: float, **tables: object) -> DataCounts:
    return DataCounts(
        label_counts=tables,  # type: ignore[arg-type]
        column_health={},
        label_noise_stddev=stddev,
        column_noise_stddev=0.0,
        findings=(),
        refusals={},
    )


@pytest.fixture
def certificate(make_certificate_of: Callable[..., Certificate]) -> Certificate:
    return make_certificate_of()


def test_tables_sum_over_spans(certificate: Certificate) -> None:
    flat, spread = counts(4.0, a=[[1300, 700, 6], [130, 70, 0]]), counts(4.0, a=[QUIET, LOUD])
    assert all_spans([QUIET, LOUD]) == [[1300, 700, 6], [130, 70, 0]]
    assert class_rows(flat, NAMES) == class_rows(spread, NAMES)
    by_client = [client_table(each, certificate, NAMES) for each in (flat, spread)]
    assert by_client[0].rows[-1] == by_client[1].rows[-1]
    # Noise of both spans is in each sum.
    margins = [table.margin.split()[-1] for table in by_client]
    assert margins == ["8", "12"]


def test_one_span_needs_no_table() -> None:
    assert span_rows(counts(4.0, a=QUIET)) == ()
    assert span_rows(counts(4.0)) == ()


@pytest.mark.parametrize(("stddev", "drifted"), [(4.0, True), (400.0, False)])
def test_a_shift_of_labels_shows_unless_noise_could_have_made_it(stddev: float, drifted: bool) -> None:
    rows = span_rows(counts(stddev, a=[QUIET, QUIET, LOUD], b=[QUIET, QUIET, LOUD]))
    assert [row.name for row in rows] == ["span 1", "span 2", "span 3"]
    assert rows[0].num_records == 2200
    assert rows[2].share.estimate == 0.5
    assert rows[2].drifted is drifted


def test_a_client_that_holds_fewer_spans_counts_as_empty_in_the_others() -> None:
    rows = span_rows(counts(4.0, a=[QUIET, LOUD], b=[QUIET]))
    assert [row.num_records for row in rows] == [2200, 1100]


def test_spans_stand_on_the_page(
    certificate: Certificate,
    make_summary: Callable[..., RunSummary],
    make_evidence: Callable[..., RunEvidence],
) -> None:
    evidence = dataclasses.replace(make_evidence(certificate), counts=counts(4.0, a=[QUIET, LOUD]))
    assert "Records by span" in render_report(make_summary(certificate), evidence)
    assert "Records by span" not in render_report(make_summary(certificate), make_evidence(certificate))


def test_spans_have_their_own_names_where_these_are_known() -> None:
    named = dataclasses.replace(counts(4.0, a=[QUIET, LOUD]), spans=("2023", "2024"))
    assert [row.name for row in span_rows(named)] == ["2023", "2024"]
