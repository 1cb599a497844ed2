from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from fedpipe.learning.evaluation import Estimate
from fedpipe.ledger.certificate import Certificate
from fedpipe.reports.evidence import Finding, Repetition, RunEvidence
from fedpipe.reports.run_report import guarantee, render_report
from fedpipe.reports.summary import RunSummary

VOID = {"meta", "link", "br", "hr", "img", "input"}
Make = Callable[..., RunEvidence]
MakeSummary = Callable[..., RunSummary]
MakeCertificate = Callable[..., Certificate]


class _Page(HTMLParser):
    """Reads a page strictly: every tag is closed in order, every id is used once."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.extend((name, value or "") for name, value in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(params=["two classes", "five classes", "not private", "seeded", "simulated", "chance"])
def page(
    request: pytest.FixtureRequest,
    make_certificate_of: MakeCertificate,
    make_summary: MakeSummary,
    make_evidence: Make,
) -> str:
    kind = request.param
    certificate = make_certificate_of(
        private=kind != "not private", randomness="seeded" if kind == "seeded" else "secure"
    )
    classes = ("a", "b", "c", "d", "e") if kind == "five classes" else ("benign", "malignant")
    summary = make_summary(
        certificate,
        simulated=kind == "simulated",
        auc=(0.4, 0.55, 0.7) if kind == "chance" else (0.8, 0.85, 0.9),
    )
    noise = 0.0 if kind == "not private" else 10.0
    return render_report(summary, make_evidence(certificate, classes=classes, noise_stddev=noise))


def test_page_is_well_formed(page: str) -> None:
    read = _Page(page)
    ids = [value for name, value in read.attributes if name == "id"]
    targets = {value[1:] for name, value in read.attributes if name == "href" and value.startswith("#")}
    assert page.startswith("<!doctype html>")
    assert read.open == []
    assert len(set(ids)) == len(ids)
    assert targets <= set(ids)
    assert "nan" not in {value.rstrip("%") for _, value in read.attributes}


def test_page_asks_for_nothing_and_runs_nothing(page: str) -> None:
    read = _Page(page)
    assert not re.search(r"(https?:)?//", re.sub(r'xmlns(:\w+)?="[^"]*"', "", page))
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on") or name == "src"]
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_page_names_no_place_on_this_machine(page: str) -> None:
    assert "/w" not in page.replace("</", "<")


def test_private_page_states_unit_neighbours_epsilon_and_delta(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    words = _Page(render_report(make_summary(certificate), make_evidence(certificate))).words()
    promise = guarantee(certificate.privacy)
    assert " ".join(promise.split()) in words
    for part in ("Adding or removing any one record", "epsilon", "10⁻⁵", "all its steps", "several clients"):
        assert part in promise
    assert "Known in simulation only" not in words
    assert "NOT PRIVATE" not in words


def test_page_without_privacy_says_so_and_promises_nothing(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of(private=False)
    page = render_report(make_summary(certificate), make_evidence(certificate, noise_stddev=0.0))
    words = _Page(page).words()
    assert 'class="banner alarm"' in page
    assert 'class="banner private"' not in page
    assert "NOT PRIVATE This run added no noise" in words
    assert "These counts are exact" in words
    assert "±" not in words
    assert "secure" not in words


def test_seeded_page_promises_nothing(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of(randomness="seeded")
    page = render_report(make_summary(certificate), make_evidence(certificate))
    assert 'class="banner private"' not in page
    assert "TEST RUN: protects nobody" in page
    assert guarantee(certificate.privacy) not in page


def test_exact_figures_stay_in_the_simulation_section(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    page = render_report(make_summary(certificate, simulated=True), make_evidence(certificate))
    before, section = page.split('<section id="simulation"')
    for exact in ("0.877", "0.954", "7,531"):
        assert exact in section
        assert exact not in before


def test_federation_page_has_no_exact_figures(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    page = render_report(make_summary(certificate), make_evidence(certificate))
    assert "simulat" not in _Page(page).words().lower()


def test_text_from_elsewhere_is_escaped(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    hostile = "<script>alert('x')</script>\" onload=\"y"
    certificate = make_certificate_of()
    evidence = make_evidence(
        certificate, classes=("benign", hostile), clients=("clinic-1", hostile), refusals={hostile: hostile}
    )
    counts = dataclasses.replace(
        evidence.counts, findings=(Finding(column=hostile, problem=hostile, severity="warning"),)
    )
    evidence = dataclasses.replace(
        evidence, counts=counts, description=hostile, settings={hostile: hostile, "g": {hostile: [hostile]}}
    )
    page = render_report(make_summary(certificate, warnings=(hostile,)), evidence)
    read = _Page(page)
    assert "script" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert read.text.count("<script>alert('x')</script>") >= 9


def test_chance_level_model_is_never_praised(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    summary = make_summary(certificate, auc=(0.4, 0.55, 0.7))
    words = _Page(render_report(summary, make_evidence(certificate))).words()
    assert "not distinguishable from chance" in words
    assert "Better than chance" not in words
    assert "No quality is claimed" in words


def test_first_screen_says_against_whom_and_what_is_left(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    evidence = dataclasses.replace(make_evidence(certificate), slices=())
    words = _Page(render_report(make_summary(certificate), evidence)).words()
    first = words[: words.index("What is not protected")]
    for part in ("Against everybody who sees what clients send", "25 % by this run", "left: 2 runs"):
        assert part in first.replace("\u00a0", " ")
    assert "Nothing suspicious was found, as far as the noise lets one see." in first


def test_slices_that_deserve_a_look_are_named_on_the_first_screen(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    evidence = make_evidence(certificate)
    [group] = evidence.slices
    [one] = group.slices
    apart = one.model_copy(update={"predicted": Estimate(estimate=0.9, lower=0.88, upper=0.92)})
    flagged = dataclasses.replace(evidence, slices=(group.model_copy(update={"slices": (apart,)}),))
    words = _Page(render_report(make_summary(certificate), flagged)).words()
    assert "1 slice of 1 where what was observed and what was predicted lie apart" in words
    assert "Nothing suspicious" not in words


def test_page_says_how_to_do_the_run_again(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    again = Repetition(command="fedpipe simulate --seed 7", file="run.yaml", settings="name: <tumours>\n")
    evidence = dataclasses.replace(make_evidence(certificate), repetition=again)
    page = render_report(make_summary(certificate), evidence)
    assert "<code>fedpipe simulate --seed 7</code>" in page
    assert "name: &lt;tumours&gt;" in page


def test_results_of_an_earlier_run_are_told_from_those_that_this_run_paid_for(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    summary = make_summary(certificate).model_copy(update={"reused": {"train": "run-0"}})
    words = _Page(render_report(summary, make_evidence(certificate))).words()
    assert "charged to them, not to this one: train (run run-0)" in words


def test_no_page_calls_a_model_good(page: str) -> None:
    assert not re.search(r"\b(good|excellent|great|strong|accurate)\b", _Page(page).words().lower())


def test_curves_are_drawn_for_two_classes_only(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    summary = make_summary(certificate)
    assert 'class="curve"' in render_report(summary, make_evidence(certificate))
    several = render_report(summary, make_evidence(certificate, classes=("a", "b", "c")))
    assert 'class="curve"' not in several
    assert "for two classes only" in several


def test_failed_try_is_listed_without_its_message(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    page = render_report(make_summary(certificate), make_evidence(certificate))
    assert "failed" in page
    assert "a private detail" not in page
    assert page.count("weights.npy") == 1


def test_hints_at_files_of_the_workspace_are_left_out(
    make_certificate_of: MakeCertificate, make_summary: MakeSummary, make_evidence: Make
) -> None:
    certificate = make_certificate_of()
    summary = make_summary(certificate, warnings=("Column radius: odd.", "See the log in /w/clients.log"))
    page = render_report(summary, make_evidence(certificate))
    assert "Column radius: odd." in page
    assert "clients.log" not in page
