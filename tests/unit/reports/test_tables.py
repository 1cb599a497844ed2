from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from fedpipe.ledger.certificate import Certificate
from fedpipe.reports.evidence import Finding, RunEvidence
from fedpipe.reports.tables import (
    MAX_CLIENTS,
    class_rows,
    client_table,
    column_rows,
    setting_groups,
    trail_rows,
)
from fedpipe.reports.wording import MINUS


@pytest.fixture
def certificate(make_certificate_of: Callable[..., Certificate]) -> Certificate:
    return make_certificate_of()


def test_classes_are_summed_over_clients(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    rows = class_rows(make_evidence(certificate).counts, ("benign", "malignant"))
    assert [(row.name, row.train, row.held_out) for row in rows] == [
        ("benign", 40, 18),
        ("malignant", 42, 18),
        ("no label", -6, 0),
    ]


def test_client_cells_that_noise_could_have_made_are_faint(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    counts = make_evidence(certificate, noise_stddev=5.0).counts
    table = client_table(counts, certificate, ("benign", "malignant"))
    client, cells = table.rows[0]
    assert client == "clinic-1"
    assert [(cell.text, cell.faint) for cell in cells[:3]] == [
        ("20", False),
        ("21", False),
        (f"{MINUS}3", True),
    ]


def test_many_classes_are_one_figure_per_client(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    classes = tuple("abcdefghi")
    table = client_table(make_evidence(certificate, classes=classes).counts, certificate, classes)
    assert table.heads == ("labelled", "no label")
    assert [cell.text for cell in table.rows[0][1]] == ["216", f"{MINUS}3", "81", "0"]
    assert table.margin.endswith("59")  # 1.96 * 10 * sqrt(9), rounded up


def test_client_that_did_not_answer_has_no_counts(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    counts = make_evidence(certificate, clients=("clinic-2",)).counts
    table = client_table(counts, certificate, ("benign", "malignant"))
    assert [cell.text for cell in dict(table.rows)["clinic-1"]] == ["no answer"]


def test_long_lists_of_clients_are_cut(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    names = [f"clinic-{index}" for index in range(1, MAX_CLIENTS + 8)]
    table = client_table(make_evidence(certificate, clients=names).counts, certificate, ("a", "b"))
    assert (len(table.rows), table.num_hidden) == (MAX_CLIENTS, 7)


def test_columns_show_what_was_declared_and_what_was_found(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    evidence = make_evidence(certificate)
    finding = Finding(column="ward", problem="odd", severity="warning")
    counts = dataclasses.replace(evidence.counts, findings=(finding,))
    radius, ward = column_rows(counts, evidence.schema)
    assert (radius.declared, radius.flagged) == ("number, 5 to 40", False)
    assert (ward.declared, ward.flagged) == ("one of north, south", True)


def test_what_a_step_made_stands_at_its_last_try(
    certificate: Certificate, make_evidence: Callable[..., RunEvidence]
) -> None:
    rows = trail_rows(make_evidence(certificate))
    assert [(row.step, row.state, [file.name for file in row.made]) for row in rows] == [
        ("ingest", "done", ["spans"]),
        ("train", "failed", []),
        ("train", "done", ["model", "weights.npy"]),
    ]


def test_settings_are_grouped_and_flattened() -> None:
    settings = {
        "name": "x",
        "privacy": {"cap": None, "shares": {"train": 0.5}},
        "model": {"widths": [64, 16]},
    }
    assert setting_groups(settings) == (
        ("run", (("name", "x"),)),
        ("privacy", (("cap", "none"), ("shares.train", "0.5"))),
        ("model", (("widths", "64, 16"),)),
    )
