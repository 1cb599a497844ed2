"""Certificates of simulated runs: complete, verified, and the same whatever the records are."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.config import Config
from fedpipe.ledger import Ledger
from fedpipe.ledger.certificate import Certificate
from fedpipe.ledger.verify import Anchors, Verification, verify_certificate
from fedpipe.pipeline import SilentProgress, Workspace
from fedpipe.privacy import PrivacyPlan
from fedpipe.reports.summary import RunSummary
from fedpipe.signing import is_public_key
from server.claims import CLAIM
from simulations.request import SimulationRequest
from simulations.run import simulate

EPSILON_OF = PrivacyPlan.epsilon_of
NOW = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
Start = Callable[..., RunSummary]


@pytest.fixture
def start(
    tmp_path: Path,
    make_config: Callable[..., Config],
    write_records: Callable[..., Path],
    no_tensorflow: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Start:
    """Runs two clients with `count` records in all; other arguments change settings."""
    monkeypatch.setattr(PrivacyPlan, "epsilon_of", EPSILON_OF)  # which `no_tensorflow` takes away
    clock = iter(range(100))

    def run(place: str = "workspace", count: int = 60, **changes: Any) -> RunSummary:
        config = make_config(federation={"num_clients": 2}, **changes)
        request = SimulationRequest.make(config, [write_records(count)], 0)
        now = NOW + timedelta(minutes=next(clock))
        return simulate(Workspace(tmp_path / place), request, progress=SilentProgress(), now=now)

    return run


def read(summary: RunSummary) -> Certificate:
    return Certificate.model_validate_json(Path(summary.paths.certificate).read_bytes())


def verify(summary: RunSummary) -> Verification:
    public = (Path(summary.paths.workspace) / "signing.pub").read_text().strip()
    anchors = Anchors(operators=frozenset({public}))
    return verify_certificate(Path(summary.paths.certificate), anchors, check_code=True)


def made(summary: RunSummary) -> dict[str, tuple[int, int | None]]:
    return {each.step: (each.planned_per_client, each.made) for each in read(summary).releases}


def test_a_run_s_certificate_is_signed_vouched_for_and_complete(start: Start) -> None:
    summary = start()
    assert verify(summary).differences == ()
    certificate = read(summary)
    assert certificate.signature is not None
    assert certificate.signature.public_key == summary.signed_by
    assert {each.statement.client for each in certificate.attestations} == set(certificate.code.clients)
    assert certificate.spans == ("undated",)
    expected = {"statistics": (1, 2), "preprocess": (1, 2), "train": (3, 6), "analyze": (1, 2)}
    assert made(summary) == expected
    with Ledger(Workspace(Path(summary.paths.workspace)).ledger_path) as ledger:
        assert ledger.num_releases(summary.run_id) == sum(number or 0 for _, number in expected.values())


def test_the_keys_stay_and_are_for_their_owners_only(start: Start) -> None:
    first, second = start(), start(training={"num_rounds": 3, "local_steps": 2, "learning_rate": 0.01})
    assert first.signed_by == second.signed_by
    root = Path(first.paths.workspace)
    public = root / "signing.pub"
    assert is_public_key(public.read_text().strip())
    for name in ("signing.key", "ledger.sqlite.key"):
        assert (root / name).stat().st_mode & 0o777 == 0o600
        assert b"PRIVATE" in (root / name).read_bytes()


def test_results_used_again_come_with_the_run_that_vouched_for_them(start: Start) -> None:
    start(), start(training={"num_rounds": 3, "local_steps": 2, "learning_rate": 0.01})
    third = start(training={"num_rounds": 3, "local_steps": 2, "learning_rate": 0.02})
    assert set(third.reused) >= {"statistics", "preprocess"}
    assert verify(third).differences == ()
    certificate = read(third)
    [earlier] = certificate.earlier_runs
    assert earlier.run_id == third.reused["statistics"]
    assert earlier.steps == ("statistics", "preprocess")
    own = [each.statement for each in certificate.attestations if each.statement.run_id == third.run_id]
    assert {each.steps for each in own} == {("train", "analyze")}
    assert len(certificate.attestations) == 4


def test_a_gap_in_an_earlier_run_s_files_is_told_and_stops_nothing(start: Start) -> None:
    first = start()
    (Path(first.paths.workspace) / "runs" / first.run_id / CLAIM).unlink()
    second = start(training={"num_rounds": 3, "local_steps": 2, "learning_rate": 0.01})
    assert f"run {first.run_id}: no client vouches for it" in verify(second).differences


def test_the_command_trusts_a_workspace_s_own_key_or_those_that_are_given(
    start: Start, tmp_path: Path
) -> None:
    summary = start()
    file, root = Path(summary.paths.certificate), Path(summary.paths.workspace)
    copy = tmp_path / "copy.json"
    copy.write_bytes(file.read_bytes())
    given = ["--key", str(root / "signing.pub")]
    client = read(summary).attestations[0]
    name, key = client.statement.client, client.signature.public_key
    for words, code, said in (
        ([file], 0, "VERIFIED"),
        ([file, "--code"], 0, f"signed by    {summary.signed_by}"),
        ([copy], 2, "signer: unknown"),
        ([copy, *given], 0, "vouched for  by 2 of 2 clients"),
        ([copy, "--key", summary.signed_by], 0, "VERIFIED"),
        ([copy, *given, "--client-key", f"{name}={key}"], 0, "the keys of 1 clients"),
        ([copy, "--key", key], 2, "somebody else's key than you trust"),
        ([copy, *given, "--client-key", f"{name}={summary.signed_by}"], 2, f"client {name}: its attestation"),
        ([copy, *given, "--client-key", f"eve={key}"], 2, "client eve: you gave its key"),
    ):
        done = CliRunner().invoke(app, ["budget", "verify", *map(str, words)])
        assert (done.exit_code, said in done.output) == (code, True), done.output
    printed = json.loads(CliRunner().invoke(app, ["budget", "verify", str(file), "--json"]).output)
    assert (printed["verified"], printed["differences"]) == (True, [])


def test_records_change_nothing_but_commitments(start: Start) -> None:
    """No field of the plan, the terms or the costs is computed from a shard's size."""
    few, many = (json.loads(read(start(f"of-{n}", n)).model_dump_json()) for n in (60, 75))
    assert few["commitments"] != many["commitments"]
    public = ("plan", "plan_sha256", "terms_sha256", "blocks", "privacy", "mechanisms", "spans", "code")
    for name in (*public, "dropouts"):
        assert few[name] == many[name]
    told = [
        [{**each["statement"], "commitments": None, "run_id": None} for each in raw["attestations"]]
        for raw in (few, many)
    ]
    assert told[0] == told[1]
