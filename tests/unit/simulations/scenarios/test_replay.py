"""The replay agrees with an honest ledger, and sees every fault that is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.federation.terms import RunTerms
from fedpipe.files import write_text
from fedpipe.ledger import Block, Ledger, ReleaseId, policy_for_runs
from fedpipe.pipeline import Workspace
from fedpipe.privacy import PrivacyPlan
from simulations.scenarios.outcomes import Attempt, Fate, Week
from simulations.scenarios.replay import CHARGED, Replay
from simulations.scenarios.settings import Scenario

CLIENTS = ("client-1", "client-2", "client-3")


@dataclass(kw_only=True)
class Story:
    """Weeks as they would be with a ledger that is used by hand."""

    workspace: Workspace
    scenario: Scenario
    terms: RunTerms
    replay: Replay
    week: int = 0

    @property
    def plan(self) -> PrivacyPlan:
        return self.terms.plan

    def claim(self, run_id: str, client: str, spans: tuple[str, ...], **changes: Any) -> bool:
        account = f"weekly.{client}"
        values: dict[str, Any] = {
            "run_id": run_id,
            "client": account,
            "terms": "{}",
            "terms_digest": "d",
            "plan": self.plan,
            "blocks": [Block(client=account, span=s, split=p) for s in spans for p in self.plan.splits],
            "policy": policy_for_runs(self.plan, self.scenario.window),
        }
        try:
            with Ledger(self.workspace.ledger_path) as ledger:
                ledger.reserve(**(values | changes))
        except BudgetError:
            return False
        return True

    def release(self, run_id: str, client: str, fate: Fate, *, but: str = "") -> None:
        with Ledger(self.workspace.ledger_path) as ledger:
            for step in CHARGED[fate]:
                for number in range(3 if step == "train" else 1):
                    name = ReleaseId(run_id=run_id, client=f"weekly.{client}", step=step, server_round=number)
                    if step != but:
                        ledger.commit(name, request_digest="d", reply=b"")
            ledger.close(run_id, f"weekly.{client}")

    def live(
        self,
        fate: Fate = "trained",
        *,
        clients: tuple[str, ...] = CLIENTS,
        extra: bool = False,
        but: str = "",
    ) -> Fate:
        """Runs a week; it is refused if the ledger says so. `but` is a step that goes uncharged."""
        self.week += not extra
        run_id = f"run-{self.week}{'x' if extra else ''}"
        spans = self.scenario.spans(self.week)[-1:] if extra else self.scenario.spans(self.week)
        write_text(self.workspace.runs_dir / run_id / "terms.json", self.terms.model_dump_json(by_alias=True))
        accepted = tuple(client for client in clients if self.claim(run_id, client, spans))
        found: Fate = fate if len(accepted) >= 3 else "refused"
        for client in accepted:
            self.release(run_id, client, found, but=but)
        self.tell(run_id, spans, clients, accepted if found != "refused" else None, found, extra)
        return found

    def tell(
        self,
        run_id: str,
        spans: tuple[str, ...],
        clients: tuple[str, ...],
        accepted: tuple[str, ...] | None,
        fate: Fate,
        extra: bool = False,
    ) -> None:
        attempt = Attempt(
            extra=extra,
            run_ids=(run_id,),
            spans=spans,
            clients=clients,
            accepted=accepted,
            refusals={},
            fate=fate,
        )
        self.replay.follow(Week(number=self.week, span=spans[-1], events=(), attempts=(attempt,)))

    def faults(self) -> str:
        return "\n".join(self.replay.verdict().faults)


@pytest.fixture
def story(
    tmp_path: Path, make_scenario: Callable[..., Scenario], make_terms: Callable[..., RunTerms]
) -> Story:
    scenario, workspace = make_scenario(weeks=20), Workspace(tmp_path / "w")
    replay = Replay(scenario=scenario, workspace=workspace)
    return Story(workspace=workspace, scenario=scenario, terms=make_terms(), replay=replay)


def test_a_window_slides_for_ever_and_no_block_is_overspent(story: Story) -> None:
    assert [story.live() for _ in range(8)] == ["trained"] * 8
    verdict = story.replay.verdict()
    verdict.check()
    assert (verdict.num_admitted, verdict.num_refused) == (24, 0)
    assert {account.num_trainings for account in verdict.accounts.values()} == {1, 2}
    fullest = max(account.used for account in verdict.accounts.values())
    assert 0.999 < fullest <= 1


def test_an_extra_run_is_paid_by_a_later_week_and_then_the_cycle_goes_on(story: Story) -> None:
    fates = [story.live(), story.live(), story.live(extra=True), story.live(), story.live(), story.live()]
    assert fates == ["trained", "trained", "trained", "refused", "trained", "trained"]
    story.replay.verdict().check()
    assert story.replay.num_refused == 3


def test_stopped_weeks_and_absent_clients_pay_for_what_was_released(story: Story) -> None:
    everybody = (*CLIENTS, "client-4")
    story.live("stopped", clients=everybody)
    story.live(clients=CLIENTS)
    story.live(clients=everybody)
    story.tell("none", story.scenario.spans(4), CLIENTS[:2], None, "too few")
    verdict = story.replay.verdict()
    verdict.check()
    runs = {
        (block.client[-1], block.span): account.num_runs
        for block, account in verdict.accounts.items()
        if block.split == "train"
    }
    assert (runs["1", "2026-W02"], runs["1", "2026-W03"], runs["4", "2026-W03"]) == (2, 2, 1)
    assert ("4", "2026-W05") not in runs


def test_a_run_beyond_the_budget_is_a_fault(story: Story) -> None:
    for _ in range(3):
        story.live()
    story.tell("run-3", story.scenario.spans(2), CLIENTS, CLIENTS, "trained")
    assert "expected a refusal by budgets, found trained" in story.faults()
    with pytest.raises(LedgerError, match="This is a defect"):
        story.replay.verdict().check()


def test_a_refusal_of_what_was_affordable_is_a_fault(story: Story) -> None:
    story.live()
    story.week += 1
    story.tell("run-1", story.scenario.spans(2), CLIENTS, None, "refused")
    assert "expected admission, found refused" in story.faults()


@pytest.mark.parametrize("step", ["statistics", "train", "analyze"])
def test_a_step_that_was_not_charged_is_a_fault(story: Story, step: str) -> None:
    story.live(but=step)
    assert "releases, found" in story.faults()


def test_a_client_that_was_turned_away_without_reason_is_a_fault(story: Story) -> None:
    story.live(clients=(*CLIENTS, "client-4"))
    story.week += 1
    story.tell("run-1", story.scenario.spans(2), CLIENTS, CLIENTS[:2], "trained")
    assert "claims of" in story.faults()


def test_spending_that_no_week_explains_is_a_fault(story: Story) -> None:
    story.live()
    story.claim("run-9", "client-1", ("2030-W01",))
    assert "on one side only" in story.faults()


def test_a_budget_that_is_larger_than_the_window_is_a_fault(story: Story) -> None:
    policy = policy_for_runs(story.plan, 5)
    assert story.claim("run-1", "client-1", story.scenario.spans(1), policy=policy)
    story.live()
    assert "expected a budget of" in story.faults()
