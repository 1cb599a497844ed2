"""A run claims what it still has to ask, once, before it asks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from fedpipe.errors import BudgetError, WorkspaceError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger.attestation import Attestation, Statement, attest, plan_digest
from fedpipe.pipeline import ExecutionRecord, ExecutionState
from fedpipe.signing import SigningKey, hold_key
from server.answers import ANSWERS, count_answers
from server.claims import CHARGED, CLAIM, Claim, ClaimingClients, first_charged, read_claim

CODE, RECORDS = "cd" * 32, "ab" * 32
Change = Callable[[Statement], Statement]


class Owners:
    """Two clients: `b` refuses every claim; `a` accepts, and vouches for it after `change`."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self.accepting = 1
        self.change: Change = lambda statement: statement
        self.break_off: Callable[[Attestation], dict[str, Any]] = lambda signed: signed.model_dump(
            mode="json"
        )
        self.requests: list[Request] = []
        self.asked: list[Collection[str] | None] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        self.asked.append(only)
        if request.step == "claim":
            refusal = Refusal(client="b", reason="spent", kind="BudgetError")
            return [self._accept(request)] * self.accepting, [refusal]
        spans = [{"name": "undated", "commitment": RECORDS}]
        return [Reply(client="a", values={"spans": spans, "code": CODE})], []

    def _accept(self, request: Request) -> Reply:
        terms = RunTerms.model_validate(request.values["terms"])
        statement = Statement(
            run_id=request.run_id,
            client="a",
            account="problem.a",
            steps=tuple(request.values["steps"]),
            plan_sha256=plan_digest(terms.plan),
            terms_sha256=terms.digest,
            commitments={"undated": RECORDS},
            code_sha256=CODE,
        )
        signed = attest(self.change(statement), self.key)
        return Reply(client="a", values={"attestation": self.break_off(signed)})

    @property
    def steps(self) -> list[str]:
        return [request.step for request in self.requests]


Make = Callable[..., ClaimingClients]


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    return Owners(hold_key(tmp_path / "owners" / "ledger.key"))


@pytest.fixture
def make(make_terms: Callable[..., RunTerms], owners: Owners, tmp_path: Path) -> Make:
    """Each call stands for a process that works on run-1."""
    terms = make_terms()
    return lambda first=None: ClaimingClients(
        owners, run_id="run-1", terms=terms, directory=tmp_path, first=first
    )


def ask(clients: ClaimingClients, *steps: str) -> None:
    """Asks as a run does, which always begins with `ingest`."""
    for step in steps if steps[0] == "ingest" else ("ingest", *steps):
        clients.ask(Request(run_id="run-1", step=step), timeout_seconds=1)


def test_all_that_is_still_to_be_asked_is_claimed_before_the_first_question(
    make: Make, owners: Owners, tmp_path: Path
) -> None:
    ask(make(), "ingest", "preprocess", "train", "train", "analyze")
    assert owners.steps == ["ingest", "claim", "preprocess", "train", "train", "analyze"]
    assert owners.requests[1].values["steps"] == ["preprocess", "train", "analyze"]
    claim = read_claim(tmp_path)
    assert claim is not None
    assert (claim.steps, claim.answered) == (("preprocess", "train", "analyze"), True)
    assert (claim.clients, claim.refusals) == ({"a"}, {"b": "spent"})


def test_what_costs_nothing_claims_nothing(make: Make, owners: Owners, tmp_path: Path) -> None:
    ask(make(), "ingest", "finish")
    assert owners.steps == ["ingest", "finish"]
    assert read_claim(tmp_path) is None


def test_a_resumed_run_repeats_its_claim_word_for_word(make: Make, owners: Owners) -> None:
    ask(make(), "statistics")
    ask(make(), "train")
    claims = [request for request in owners.requests if request.step == "claim"]
    assert [claim.values["steps"] for claim in claims] == [list(CHARGED)] * 2
    assert claims[0].digest == claims[1].digest


def test_the_steps_are_written_down_before_anybody_is_asked(
    make: Make, owners: Owners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(request: Request) -> Reply:
        raise KeyboardInterrupt

    monkeypatch.setattr(owners, "_accept", die)
    with pytest.raises(KeyboardInterrupt):
        ask(make(), "train")
    assert read_claim(tmp_path) == Claim(steps=("train", "analyze"))


def test_a_step_that_the_claim_leaves_out_is_not_asked(make: Make, owners: Owners) -> None:
    ask(make(), "train")
    with pytest.raises(WorkspaceError, match="--fresh"):
        ask(make(), "statistics")
    assert "statistics" not in owners.steps


def test_nobody_is_asked_when_too_few_accept(make: Make, owners: Owners) -> None:
    owners.accepting = 0
    clients = make()
    for _ in range(2):
        with pytest.raises(BudgetError, match="spent"):
            ask(clients, "train")
    assert owners.steps == ["ingest", "claim"] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "run-0"),
        ("client", "b"),
        ("steps", ("train",)),
        ("plan_sha256", "00" * 32),
        ("terms_sha256", "00" * 32),
        ("commitments", {"undated": "00" * 32}),
        ("code_sha256", "00" * 32),
    ],
)
def test_a_client_that_vouches_for_something_else_is_refused(
    make: Make, owners: Owners, tmp_path: Path, field: str, value: Any
) -> None:
    owners.change = lambda statement: statement.model_copy(update={field: value})
    with pytest.raises(BudgetError):  # the other client has no budget, and nobody else is there
        ask(make(), "train")
    assert owners.steps == ["ingest", "claim"]
    assert read_claim(tmp_path) == Claim(steps=("train", "analyze"))


def test_a_client_whose_signature_does_not_fit_is_refused(make: Make, owners: Owners, tmp_path: Path) -> None:
    def other_signature(signed: Attestation) -> dict[str, Any]:
        other = attest(signed.statement.model_copy(update={"steps": ("train",)}), owners.key)
        return signed.model_copy(update={"signature": other.signature}).model_dump(mode="json")

    for broken in (other_signature, lambda signed: {}):
        owners.break_off = broken
        with pytest.raises(BudgetError):
            ask(make(), "train")
    assert "train" not in owners.steps


def test_who_did_not_accept_is_not_asked_and_told_as_missing(make: Make, owners: Owners) -> None:
    clients = make()
    ask(clients, "ingest")
    question = Request(run_id="run-1", step="train")
    replies, refusals = clients.ask(question, timeout_seconds=1, only=["a", "b", "late"])
    assert [reply.client for reply in replies] == ["a"]
    assert [(each.client, each.reason) for each in refusals] == [
        ("b", "spent"),
        ("late", "it did not accept the run's claim"),
    ]
    assert owners.asked[-1] == ["a"]


def test_answers_are_counted_once_each(make: Make, owners: Owners, tmp_path: Path) -> None:
    ask(make(), "statistics", "train")
    with (tmp_path / ANSWERS).open("a") as stream:
        stream.write('\n{"step": "train", "round": 1, "clien')
    ask(make(), "train", "analyze")
    assert count_answers(tmp_path) == {"statistics": 1, "train": 1, "analyze": 1}
    assert count_answers(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("content", ["{", None])
def test_a_claim_whose_file_was_lost_is_repeated_from_the_paper_trail(
    make: Make, owners: Owners, tmp_path: Path, content: str | None
) -> None:
    ask(make(), "preprocess")
    (tmp_path / CLAIM).unlink()
    if content is not None:
        (tmp_path / CLAIM).write_text(content)
    ask(make(first="preprocess"), "train")
    claims = [request for request in owners.requests if request.step == "claim"]
    assert claims[0].digest == claims[1].digest


def test_a_claim_begins_with_the_first_charged_step_that_its_run_began_itself() -> None:
    def execution(step: str, state: ExecutionState) -> ExecutionRecord:
        texts = {"run_id": "r", "fingerprint": "f", "because": "", "started_at": "", "message": ""}
        return ExecutionRecord(
            id=1, step=step, state=state, duration_seconds=None, parts={}, payloads={}, **texts
        )

    begun = [execution("ingest", "COMPLETE"), execution("statistics", "CACHED"), execution("train", "FAILED")]
    assert first_charged(begun) == "train"
    assert first_charged([*begun, execution("preprocess", "COMPLETE")]) == "preprocess"
    assert first_charged(begun[:2]) is None


def test_a_ledger_other_than_the_one_admitted_takes_no_part(
    make_terms: Callable[..., RunTerms], owners: Owners, tmp_path: Path
) -> None:
    def claiming(key: str) -> ClaimingClients:
        return ClaimingClients(
            owners, run_id="run-1", terms=make_terms(), directory=tmp_path, ledger_keys={"a": key}
        )

    other = hold_key(tmp_path / "other.key")
    with pytest.raises(BudgetError):  # of the other owner: nobody is left
        ask(claiming(other.public), "train")
    assert "train" not in owners.steps
    ask(claiming(owners.key.public), "train")
    assert "train" in owners.steps
