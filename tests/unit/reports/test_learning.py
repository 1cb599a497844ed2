"""What the report says of training: functions of releases and of the plan, and no promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from fedpipe.ledger.certificate import Certificate
from fedpipe.privacy.accounting import epsilon
from fedpipe.reports.charts import line_chart, nice_ticks
from fedpipe.reports.evidence import RoundEvidence, RunEvidence
from fedpipe.reports.learning import learning_report, running_epsilon
from fedpipe.reports.run_report import render_report
from fedpipe.reports.summary import RunSummary

MakeCertificate = Callable[..., Certificate]


def rounds(answers: Sequence[int], *, update: float = 1.0, noise: float = 0.5) -> list[RoundEvidence]:
    return [
        RoundEvidence(server_round=n, num_answered=number, update_norm=update, noise_norm=noise)
        for n, number in enumerate(answers, start=1)
    ]


def test_the_running_total_grows_to_what_training_records_pay(make_certificate_of: MakeCertificate) -> None:
    certificate = make_certificate_of()
    totals = running_epsilon(certificate)
    assert [number for number, _ in totals] == [0, 1, 2, 3, 4, 5]
    values = [value for _, value in totals]
    assert values == sorted(values)
    whole = epsilon(certificate.plan.events_of("train"), certificate.plan.delta)
    assert values[-1] == pytest.approx(whole, rel=0.02)
    assert values[-1] >= whole


def test_a_run_without_privacy_has_no_running_total(make_certificate_of: MakeCertificate) -> None:
    certificate = make_certificate_of(private=False)
    assert running_epsilon(certificate) == ()
    found = learning_report(rounds([2, 2], noise=0.0), certificate)
    assert found is not None
    assert (found.totals, found.noise, found.norms.dashed) == (None, "", "")


def test_nothing_is_said_of_rounds_that_were_not_kept(make_certificate_of: MakeCertificate) -> None:
    assert learning_report([], make_certificate_of()) is None


@pytest.mark.parametrize(
    ("answers", "words"),
    [([3, 3], "3 clients answered in every round."), ([1, 3, 2], "Between 1 and 3 clients answered")],
)
def test_who_answered_is_one_sentence(
    make_certificate_of: MakeCertificate, answers: list[int], words: str
) -> None:
    found = learning_report(rounds(answers), make_certificate_of())
    assert found is not None
    assert found.answers.startswith(words)
    assert found.noise == "About 25% of the squared length is noise."


def test_the_page_calls_the_running_total_no_guarantee(
    make_certificate_of: MakeCertificate,
    make_summary: Callable[..., RunSummary],
    make_evidence: Callable[..., RunEvidence],
) -> None:
    certificate = make_certificate_of()
    evidence = make_evidence(certificate)
    page = render_report(make_summary(certificate), evidence)
    assert "A running total, no guarantee" in page
    assert "No training loss is shown" in page
    bare = dataclasses.replace(evidence, rounds=(), slices=(), versions=(), budgets=())
    assert 'id="training"' not in render_report(make_summary(certificate), bare)


@pytest.mark.parametrize("end", [1e-9, 0.07, 1.0, 7.99, 120.0, 3e6])
def test_ticks_are_few_and_reach_the_end(end: float) -> None:
    ticks = nice_ticks(end)
    assert ticks[0] == 0
    assert end <= ticks[-1] * (1 + 1e-9) < 2 * end + 1e-12
    assert 2 <= len(ticks) <= 6


def test_places_lie_within_the_drawing() -> None:
    chart = line_chart("label", "y", [1, 2, 4], [0.0, 3.0, 4.0], [(0, 4.5), (4, 4.5)])
    assert chart.line.split()[-1] == "320.0,34.0"  # 4 of 5 on the scale
    assert [tick.text for tick in chart.x_ticks] == ["0", "1", "2", "3", "4"]
