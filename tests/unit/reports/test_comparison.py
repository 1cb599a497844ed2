"""Slices, versions and budgets as people read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fedpipe.learning.evaluation import Estimate
from fedpipe.ledger.certificate import Certificate
from fedpipe.reports.comparison import budget_rows, slice_reports, version_rows
from fedpipe.reports.evidence import Budget, RunEvidence
from fedpipe.reports.run_report import render_report
from fedpipe.reports.summary import RunSummary

MakeCertificate = Callable[..., Certificate]
Make = Callable[..., RunEvidence]
AUC = Estimate(estimate=0.75, lower=0.7, upper=0.8)


def test_a_slice_shows_its_noise_and_whether_to_look(
    make_certificate_of: MakeCertificate, make_evidence: Make
) -> None:
    [group] = slice_reports(make_evidence(make_certificate_of()), AUC)
    [row] = group.rows
    assert row.records.replace("\u00a0", " ") == "200 ± 20"
    assert (row.observed, row.look) == ("0.400 (0.350 to 0.450)", True)
    assert row.auc is not None
    assert row.auc.reference is not None
    assert row.auc.reference.value == 0.75
    assert (group.too_few, group.num_too_few) == ("south, west", 2)


def test_small_slices_are_named_on_the_page_without_figures(
    make_certificate_of: MakeCertificate, make_summary: Callable[..., RunSummary], make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    page = render_report(make_summary(certificate), make_evidence(certificate))
    assert "Too few to say: south, west." in page


def test_slices_of_several_classes_speak_of_right_answers(
    make_certificate_of: MakeCertificate, make_summary: Callable[..., RunSummary], make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    page = render_report(make_summary(certificate), make_evidence(certificate, classes=("a", "b", "c")))
    section = page.split('<section id="slices"')[1].split("</section>")[0]
    assert "Right answers" in section
    assert "AUC" not in section


def test_versions_are_compared_from_the_second_on(
    make_certificate_of: MakeCertificate, make_evidence: Make
) -> None:
    evidence = make_evidence(make_certificate_of())
    assert [(row.version, row.this) for row in version_rows(evidence)] == [("2", False), ("3", True)]
    assert version_rows(dataclasses.replace(evidence, versions=evidence.versions[-1:])) == ()


def test_a_budget_says_what_it_affords() -> None:
    budget = Budget(split="eval", epsilon=3.5, delta=1e-5, used=1.0 + 1e-12, by_this_run=0.0, runs_left=0)
    [row] = budget_rows([budget])
    assert (row.title, row.left) == ("Held-out records", "none")
    assert row.used.replace("\u00a0", " ") == "100 %"
