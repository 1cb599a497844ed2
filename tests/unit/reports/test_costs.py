from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from dp_accounting import dp_event
from scipy.stats import norm

from fedpipe.ledger.attestation import Statement, attest
from fedpipe.ledger.certificate import Certificate, Dropout
from fedpipe.privacy import epsilon
from fedpipe.reports.costs import block_reports, detection_bound, dropout_words, vouching_words
from fedpipe.signing import hold_key

MakeCertificate = Callable[..., Certificate]


def test_shares_of_counts_are_as_their_numbers_of_histograms(make_certificate_of: MakeCertificate) -> None:
    train, held_out = block_reports(make_certificate_of())
    # One histogram against three with the same noise, whatever the order.
    assert [query.share for query in held_out.queries] == pytest.approx([0.25, 0.75])
    assert train.queries[1].share == pytest.approx(3 * train.queries[0].share)


def test_shares_and_bars_fill_the_whole(make_certificate_of: MakeCertificate) -> None:
    for block in block_reports(make_certificate_of()):
        assert math.fsum(query.share for query in block.queries) == pytest.approx(1)
        assert block.steps[-1].start + block.steps[-1].share == pytest.approx(1)


def test_blocks_state_the_certificates_epsilon(make_certificate_of: MakeCertificate) -> None:
    certificate = make_certificate_of()
    reports = block_reports(certificate)
    assert [block.title for block in reports] == ["Training records", "Held-out records"]
    assert [block.epsilon for block in reports] == [block.epsilon for block in certificate.blocks]


def test_run_without_privacy_has_no_costs_to_list(make_certificate_of: MakeCertificate) -> None:
    assert block_reports(make_certificate_of(private=False)) == ()


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 2.0, 5.0])
def test_detection_bound_holds_the_best_test_against_a_gaussian(noise_multiplier: float) -> None:
    # Neyman and Pearson: the best test of N(0, z^2) against N(1, z^2) at 1 % false alarms.
    best = float(norm.cdf(norm.ppf(0.01) + 1 / noise_multiplier))
    events = [dp_event.GaussianDpEvent(noise_multiplier)]
    bound = detection_bound(events, epsilon(events, 1e-5), 1e-5, false_alarms=0.01)
    assert best <= bound <= best + 0.05


def test_detection_bound_says_nothing_where_epsilon_does_not() -> None:
    events = [dp_event.GaussianDpEvent(0.1)]
    assert detection_bound(events, math.inf, 1e-5, false_alarms=0.01) > 0.995


def test_dropouts_are_named_with_their_rounds(make_certificate_of: MakeCertificate) -> None:
    missed = (Dropout(server_round=2, client="clinic-1"), Dropout(server_round=4, client="clinic-1"))
    assert "clinic-1 (round 2, 4)" in dropout_words(make_certificate_of(dropouts=missed))
    assert dropout_words(make_certificate_of()).startswith("None")


def test_clients_that_did_not_sign_are_named(make_certificate_of: MakeCertificate, tmp_path: Path) -> None:
    certificate = make_certificate_of()
    assert vouching_words(certificate).startswith("nobody")
    said = Statement(
        run_id="run-1",
        client="clinic-1",
        account="clinic-1",
        steps=("train",),
        plan_sha256="",
        terms_sha256="",
        commitments={},
        code_sha256="",
    )
    signed = attest(said, hold_key(tmp_path / "key"))
    words = vouching_words(certificate.model_copy(update={"attestations": (signed,)}))
    assert words.startswith("1 of 2 clients")
    assert words.endswith("not by clinic-2")
