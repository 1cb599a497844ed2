"""A run claims what it still has to ask, once, before it asks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from fedpipe.errors import BudgetError, WorkspaceError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.pipeline import ExecutionRecord, ExecutionState
from server.claims import CHARGED, CLAIM, Claim, ClaimingClients, first_charged, read_claim


class Owners:
    """Two clients: `b` refuses every claim."""

    def __init__(self, accepting: int = 1) -> None:
        self.accepting = accepting
        self.requests: list[Request] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        refusal = Refusal(client="b", reason="spent", kind="BudgetError")
        return [Reply(client="a")] * self.accepting, [refusal] if request.step == "claim" else []

    @property
    def steps(self) -> list[str]:
        return [request.step for request in self.requests]


Make = Callable[..., ClaimingClients]


@pytest.fixture
def owners() -> Owners:
    return Owners()


@pytest.fixture
def make(make_terms: Callable[..., RunTerms], owners: Owners, tmp_path: Path) -> Make:
    """Each call stands for a process that works on run-1."""
    terms = make_terms()
    return lambda first=None: ClaimingClients(
        owners, run_id="run-1", terms=terms, directory=tmp_path, first=first
    )


def ask(clients: ClaimingClients, *steps: str) -> None:
    for step in steps:
        clients.ask(Request(run_id="run-1", step=step), timeout_seconds=1)


def test_all_that_is_still_to_be_asked_is_claimed_before_the_first_question(
    make: Make, owners: Owners, tmp_path: Path
) -> None:
    ask(make(), "ingest", "preprocess", "train", "train", "analyze")
    assert owners.steps == ["ingest", "claim", "preprocess", "train", "train", "analyze"]
    assert owners.requests[1].values["steps"] == ["preprocess", "train", "analyze"]
    assert read_claim(tmp_path) == Claim(
        steps=("preprocess", "train", "analyze"), answered=True, refusals={"b": "spent"}
    )


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
    def die(request: Request, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owners, "ask", die)
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
    assert owners.steps == ["claim", "claim"]


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
