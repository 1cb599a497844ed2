from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.gate import Gate
from clients.home import NodeHome
from clients.node import Node
from clients.records import read_shard
from clients.site_policy import SitePolicy, read_policy, write_policy
from fedpipe.errors import ConfigError
from fedpipe.federation import Refusal, Request
from fedpipe.federation.enrolment import Invitation
from fedpipe.federation.messages import ABSENT
from fedpipe.federation.terms import RunTerms

MakeGate = Callable[..., tuple[NodeHome, Gate]]


@pytest.fixture
def make_gate(tmp_path: Path, make_invitation: Callable[..., Invitation]) -> MakeGate:
    """Returns a node's home and gate; arguments are lines of its policy."""

    def make(**policy: Any) -> tuple[NodeHome, Gate]:
        (tmp_path / "records.csv").write_text("x\n1\n")
        home, _ = NodeHome.create(
            tmp_path / "home", make_invitation(), store=None, policy=SitePolicy.model_validate(policy)
        )
        return home, Gate(home, [str(tmp_path / "records.csv")])

    return make


def a_request(step: str, run_id: str = "run-1", **values: Any) -> Request:
    return Request(run_id=run_id, step=step, values=values)


def test_a_request_passes_with_what_the_client_app_needs(make_gate: MakeGate) -> None:
    _, gate = make_gate(block_epsilon=3.0)

    config = gate.decide(a_request("ingest"))

    assert not isinstance(config, Refusal)
    node = Node.from_config(config)
    assert node.name == "first-bank"
    assert node.policy.lifetime_epsilon == 3.0
    assert node.policy.seed is None
    assert not node.policy.allow_not_private
    assert len(node.key) >= 16


@pytest.mark.parametrize("num_weights", [10, 5_000_000])
def test_only_a_large_model_is_forgotten_with_its_run(
    make_gate: MakeGate, monkeypatch: pytest.MonkeyPatch, num_weights: int
) -> None:
    _, gate = make_gate()
    decided: list[Request] = []
    forgotten: list[int] = []
    monkeypatch.setattr("clients.gate.forget_models", lambda: forgotten.append(len(decided)))
    weights = {"weights": np.zeros(num_weights, np.float32)}
    for request in (
        a_request("ingest"),
        Request(run_id="run-1", step="train", server_round=1, arrays=weights),
        Request(run_id="run-1", step="analyze", arrays=weights),
        a_request("finish"),
        a_request("finish", "run-2"),
    ):
        gate.decide(request)
        decided.append(request)
    assert forgotten == ([3] if num_weights > 10 else [])


def test_a_run_that_needs_approval_waits_for_it(make_gate: MakeGate) -> None:
    home, gate = make_gate(manual_approval=True)

    refusal = gate.decide(a_request("ingest"))
    assert isinstance(refusal, Refusal)
    assert refusal.kind == ABSENT  # waited for, as for one that is away
    assert [note.run_id for note in home.notes()] == ["run-1"]
    assert not home.listing_path("run-1").exists()

    home.keep_note(home.note("run-1").model_copy(update={"approved": True}))
    assert not isinstance(gate.decide(a_request("ingest")), Refusal)
    assert isinstance(gate.decide(a_request("ingest", "run-2")), Refusal)


def test_all_runs_together_stay_below_the_total(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    terms = make_terms()
    once = terms.plan.total_epsilon()
    _, gate = make_gate(total_epsilon=1.5 * once)
    values = {"terms": terms.model_dump(mode="json", by_alias=True), "steps": ["train"]}

    assert not isinstance(gate.decide(a_request("claim", "run-1", **values)), Refusal)
    assert not isinstance(gate.decide(a_request("claim", "run-1", **values)), Refusal)
    refusal = gate.decide(a_request("claim", "run-2", **values))
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "LedgerError"
    assert "refused by policy" in refusal.reason


def test_a_plan_that_takes_too_long_to_account_for_is_refused(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    terms = make_terms().model_dump(mode="json", by_alias=True)
    terms["plan"]["queries"]["training"]["mechanism"] |= {
        "noise_multiplier": 0.021,
        "sampling_probability": 1e-12,
    }
    home, gate = make_gate()

    refusal = gate.decide(a_request("claim", terms=terms, steps=["train"]))

    assert isinstance(refusal, Refusal)
    assert refusal.kind == "PrivacyError"
    assert "reasonable time" in refusal.reason
    assert not home.note("run-1").claimed


def test_a_claim_that_the_ledger_refused_takes_nothing_off_the_total(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    terms = make_terms()
    home, gate = make_gate(total_epsilon=1.5 * terms.plan.total_epsilon())
    values = {"terms": terms.model_dump(mode="json", by_alias=True), "steps": ["train"]}

    assert not isinstance(gate.decide(a_request("claim", "run-1", **values)), Refusal)
    gate.on_claim_refused("run-1")
    assert home.notes() == []

    assert not isinstance(gate.decide(a_request("claim", "run-2", **values)), Refusal)


def test_a_claim_that_was_counted_before_stays_counted_when_it_is_repeated(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    # The ledger may have been replaced by an older one, which does not know the claim.
    terms = make_terms()
    home, gate = make_gate(total_epsilon=1.5 * terms.plan.total_epsilon())
    values = {"terms": terms.model_dump(mode="json", by_alias=True), "steps": ["train"]}
    gate.decide(a_request("claim", "run-1", **values))

    gate.decide(a_request("claim", "run-1", **values))
    gate.on_claim_refused("run-1")

    assert [note.claimed for note in home.notes()] == [True]


def test_an_approval_outlives_a_refused_claim(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    home, gate = make_gate(manual_approval=True)
    home.keep_note(home.note("run-1").model_copy(update={"approved": True}))
    values = {"terms": make_terms().model_dump(mode="json", by_alias=True), "steps": ["train"]}
    gate.decide(a_request("claim", "run-1", **values))

    gate.on_claim_refused("run-1")

    assert [(note.approved, note.claimed, note.epsilon) for note in home.notes()] == [(True, False, None)]


def test_the_policy_is_read_again_for_every_request(make_gate: MakeGate) -> None:
    home, gate = make_gate()
    assert not isinstance(gate.decide(a_request("ingest")), Refusal)

    home.policy_path.write_text("manual_approval: true\n")
    assert isinstance(gate.decide(a_request("statistics")), Refusal)


def test_a_node_whose_policy_is_damaged_answers_nobody(
    make_gate: MakeGate, caplog: pytest.LogCaptureFixture
) -> None:
    home, gate = make_gate()
    home.policy_path.write_text("block_epsilon: -1\n")

    refusal = gate.decide(a_request("statistics"))
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "ConfigError"
    assert str(home.root) not in refusal.reason
    assert "block_epsilon" not in refusal.reason
    assert "block_epsilon" in caplog.text


def test_finish_forgets_which_files_were_read(make_gate: MakeGate) -> None:
    home, gate = make_gate()
    gate.decide(a_request("ingest"))
    assert home.listing_path("run-1").exists()

    assert not isinstance(gate.decide(a_request("finish")), Refusal)
    assert not home.listing_path("run-1").exists()


def test_a_run_that_ended_unapproved_waits_no_longer(make_gate: MakeGate) -> None:
    home, gate = make_gate(manual_approval=True)
    gate.decide(a_request("ingest"))
    assert [note.run_id for note in home.notes()] == ["run-1"]

    gate.decide(a_request("finish"))
    assert home.notes() == []


def test_records_that_cannot_be_found_are_the_owners_business(
    make_gate: MakeGate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, gate = make_gate()
    (tmp_path / "records.csv").unlink()

    refusal = gate.decide(a_request("ingest"))
    assert isinstance(refusal, Refusal)
    assert "records.csv" not in refusal.reason
    assert "records.csv" in caplog.text


def test_a_policy_that_was_written_reads_the_same(tmp_path: Path) -> None:
    policy = SitePolicy.model_validate({"declared_size": 900, "allowed_models": ["mlp"], "total_epsilon": 4})
    write_policy(tmp_path / "policy.yaml", policy)

    assert read_policy(tmp_path / "policy.yaml") == policy
    text = (tmp_path / "policy.yaml").read_text()
    assert all(f"# {field.description}" in text for field in SitePolicy.model_fields.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"block_epsilom: 3\n", "'block_epsilom' in .*policy.yaml. Did you mean block_epsilon?"),
        (b"block_epsilon: -1\n", "Expected block_epsilon to be greater than 0, found -1: correct it in "),
        (b"allowed_steps: [trian]\n", "allowed_steps.0"),
        (b"block_epsilon: 1\nblock_epsilon: 9\n", "key 'block_epsilon' twice in line 2, column 1"),
        (b"allowed_steps: [train\n", "line 2, column 1"),
        (b"block_epsilon: \xff\n", "UTF-8"),
        (b"", "found none: restore it"),
        (b"# all lines are gone\n", "found none: restore it"),
        (b"- a list\n", "found none: restore it"),
    ],
)
def test_mistakes_in_a_policy_are_named(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "policy.yaml").write_bytes(text)

    with pytest.raises(ConfigError, match=told):
        read_policy(tmp_path / "policy.yaml")


def test_records_of_one_run_at_a_time_stay_in_memory(
    make_gate: MakeGate, make_terms: Callable[..., RunTerms]
) -> None:
    home, gate = make_gate()
    (home.root.parent / "records.csv").write_text("record_id,age,town,ill\nr1,31,ulm,y\n")

    def read(run_id: str) -> int:
        config = gate.decide(a_request("ingest", run_id))
        assert not isinstance(config, Refusal)
        Node.from_config(config).records(make_terms())
        return read_shard.cache_info().currsize

    assert [read("run-1"), read("run-2"), read("run-2")] == [1, 1, 1]
    gate.decide(a_request("finish", "run-2"))
    assert read_shard.cache_info().currsize == 0
