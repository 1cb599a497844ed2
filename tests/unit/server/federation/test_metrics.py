import datetime as dt
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from fedpipe.federation import Refusal, Reply, Request
from fedpipe.files import write_text
from fedpipe.ledger.attestation import Statement, attest
from fedpipe.pipeline import MetadataStore
from fedpipe.signing import hold_key
from server.answers import note_answers
from server.claims import CLAIM, Claim, read_claim
from server.federation import metrics
from server.federation.home import FederationHome
from server.federation.metrics import FederationMetrics
from server.federation.runs import REQUEST, FederationRequest


def shown(figures: FederationMetrics) -> list[str]:
    return generate_latest(figures.collectors).decode().splitlines()


@pytest.fixture
def run(home: FederationHome, tmp_path: Path, now: dt.datetime) -> Path:
    """The directory of a run that two clients accepted."""
    workspace = home.workspace()
    directory = workspace.make_step_dir("run-1", "ingest").parent
    request = FederationRequest(number=1, config={}, seed=0)
    (directory / REQUEST).write_text(request.model_dump_json())
    key = hold_key(tmp_path / "ledger.key")
    attested = tuple(
        attest(
            Statement(
                run_id="run-1",
                client=client,
                account=client,
                steps=("train",),
                plan_sha256="",
                terms_sha256="",
                commitments={"2026-05": "00"},
                code_sha256="",
            ),
            key,
        )
        for client in ("a", "b")
    )
    claim = Claim(steps=("train",), answered=True, refusals={"c": "spent"}, attestations=attested)
    (directory / CLAIM).write_text(claim.model_dump_json())
    metadata = MetadataStore.open(workspace.metadata_path)
    metadata.create_run("run-1", pipeline="p", config_digest="", created_at=now, claim_id="run-1")
    metadata.update_run("run-1", epsilon=2.0, delta=1e-5)
    return directory


def test_the_last_run_is_shown_from_its_own_files(home: FederationHome, run: Path) -> None:
    for number in (1, 2):
        note_answers(
            run,
            Request(run_id="run-1", step="train", server_round=number),
            [Reply(client="a"), *([Reply(client="b")] if number == 1 else [])],
            [Refusal(client="b", reason="no answer in time", kind="absent")] if number == 2 else [],
            seconds=0.5,
        )
    lines = shown(FederationMetrics(home))

    assert "fedpipe_federation_run_round 2.0" in lines
    assert "fedpipe_federation_run_cohort_size 1.0" in lines
    assert "fedpipe_federation_run_clients 2.0" in lines
    assert 'fedpipe_federation_run_refusals{kind="absent"} 1.0' in lines
    assert 'fedpipe_federation_run_refusals{kind="claim"} 1.0' in lines
    assert 'fedpipe_federation_run_question_seconds_bucket{le="1.0",step="train"} 2.0' in lines
    assert 'fedpipe_federation_runs{status="RUNNING"} 1.0' in lines


def test_claims_of_all_runs_add_up_by_client_and_span(home: FederationHome, run: Path) -> None:
    lines = shown(FederationMetrics(home))

    assert "fedpipe_federation_run_epsilon 2.0" in lines
    assert 'fedpipe_federation_claimed_epsilon{client="a",span="2026-05"} 2.0' in lines


def test_a_claim_is_read_again_when_it_has_changed_and_not_otherwise(
    home: FederationHome, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def reading(directory: Path) -> Claim | None:
        read.append(directory)
        return read_claim(directory)

    monkeypatch.setattr(metrics, "read_claim", reading)
    figures = FederationMetrics(home)
    name = 'fedpipe_federation_claimed_epsilon{client="a",span="2026-05"} 2.0'
    assert name in shown(figures)
    once = len(read)
    assert name in shown(figures)
    assert len(read) == once + 1  # of the last run, for who accepted it

    claim = Claim.model_validate_json((run / CLAIM).read_text())
    write_text(run / CLAIM, claim.model_copy(update={"attestations": ()}).model_dump_json())
    assert name not in shown(figures)


def test_only_documented_figures_are_shown(home: FederationHome, run: Path) -> None:
    """Whatever is shown must be public or released: a new figure is a decision, and stands in the guide."""
    figures = FederationMetrics(home)
    figures.watch(lambda: 0)
    guide = (Path(__file__).parents[4] / "docs/federation.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", guide))
    shown = {family.name.removeprefix("fedpipe_federation_") for family in figures.collectors.collect()}

    assert {name if name in documented else f"{name}_total" for name in shown} <= documented
    assert len(shown) == 13


def test_a_federation_without_runs_has_figures_too(home: FederationHome) -> None:
    figures = FederationMetrics(home)
    figures.watch(lambda: 2)
    figures.on_refusal("unauthenticated")

    assert "fedpipe_federation_nodes_online 2.0" in shown(figures)
    assert "fedpipe_federation_members 0.0" in shown(figures)
    assert 'fedpipe_federation_calls_refused_total{status="unauthenticated"} 1.0' in shown(figures)
