from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import Block, BlockPolicy
from fedpipe.privacy import PrivacyPlan, event_to_json
from fedpipe.privacy.accounting import renyi_divergence

if TYPE_CHECKING:
    from conftest import Desk

Planner = Callable[..., PrivacyPlan]


def cost(desk: Desk, split: str, plan: PrivacyPlan | None = None) -> float:
    queries = (plan or desk.plan).queries.values()
    order = desk.policy.renyi_order
    return sum(renyi_divergence(query.events, order) for query in queries if split in query.splits)


def test_a_reservation_holds_the_whole_plan_on_every_block(desk: Desk) -> None:
    desk.reserve("r1")
    assert desk.held() == pytest.approx(
        {"ada/undated/eval": cost(desk, "eval"), "ada/undated/train": cost(desk, "train")}
    )


def test_three_runs_fit_into_a_policy_for_three_and_the_fourth_is_refused(desk: Desk) -> None:
    for run in ("r1", "r2", "r3"):
        desk.reserve(run)
    before = desk.contents()
    with pytest.raises(BudgetError) as refusal:
        desk.reserve("r4")
    assert desk.contents() == before
    numbers = re.search(r"Requested: (\S+), remaining: (\S+), difference: (\S+) \(", str(refusal.value))
    assert numbers is not None
    requested, remaining, difference = (float(text) for text in numbers.groups())
    assert requested == pytest.approx(cost(desk, "train"), rel=1e-3)
    assert remaining < 1e-6
    assert difference == pytest.approx(requested - remaining, rel=1e-3)
    assert "ada/undated/train" in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_three_runs_fit_without_a_key_as_well(make_desk: Callable[..., Desk], planner: Planner) -> None:
    desk = make_desk(plan=planner(keyed=False))
    for run in ("r1", "r2", "r3"):
        desk.reserve(run)
    with pytest.raises(BudgetError):
        desk.reserve("r4")
    assert list(desk.held()) == ["ada/undated/all"]


def test_a_refusal_on_the_last_block_undoes_the_first(desk: Desk, planner: Planner) -> None:
    desk.reserve("r1")
    before = desk.contents()
    # The evaluation block, which comes first, could afford this; the training block cannot.
    with pytest.raises(BudgetError, match="train"):
        desk.reserve("r2", plan=planner(noise=0.4))
    assert desk.contents() == before


def test_a_refused_first_claim_creates_no_block(desk: Desk) -> None:
    with desk.open():
        before = desk.contents()
    with pytest.raises(BudgetError):
        desk.reserve("r1", policy=BlockPolicy(epsilon=0.5, delta=1e-5, renyi_order=16))
    assert desk.contents() == before


def test_a_known_block_keeps_its_policy(desk: Desk) -> None:
    desk.reserve("r1")
    generous = BlockPolicy(epsilon=1e6, delta=0.1, renyi_order=2)
    for run in ("r2", "r3"):
        desk.reserve(run, policy=generous)
    with pytest.raises(BudgetError):
        desk.reserve("r4", policy=generous)
    with desk.open() as ledger:
        assert {spending.policy for spending in ledger.spending()} == {desk.policy}


def test_reserving_again_adopts_the_claim(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.contents()
    for _ in range(5):
        desk.reserve("r1")
    assert desk.contents() == before


def test_adoption_keeps_what_was_committed(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    before = desk.contents()
    desk.reserve("r1")
    assert desk.contents() == before


def test_other_terms_under_the_same_run_are_refused(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.contents()
    with pytest.raises(LedgerError, match="new run with --fresh"):
        desk.reserve("r1", terms='{"agreed":"more"}', terms_digest="d2")
    assert desk.contents() == before


def test_a_claim_is_not_adopted_for_other_blocks(desk: Desk) -> None:
    # New records arrived since: they never paid.
    desk.reserve("r1")
    later = [Block(client="ada", span="2024-06", split=split) for split in ("train", "eval")]
    before = desk.contents()
    with pytest.raises(LedgerError, match="blocks"):
        desk.reserve("r1", blocks=desk.blocks() + later)
    assert desk.contents() == before
    desk.reserve("r2", blocks=desk.blocks() + later)
    assert len(desk.held()) == 4


def test_a_closed_claim_is_not_adopted(desk: Desk) -> None:
    desk.reserve("r1")
    desk.close("r1")
    with pytest.raises(LedgerError, match="closed"):
        desk.reserve("r1")


def test_runs_and_clients_are_told_apart(desk: Desk) -> None:
    desk.reserve("r1")
    bob = [Block(client="bob", span="undated", split=split) for split in ("train", "eval")]
    desk.reserve("r1", client="bob", blocks=bob)
    assert set(desk.held()) == {
        "ada/undated/eval",
        "ada/undated/train",
        "bob/undated/eval",
        "bob/undated/train",
    }
    with desk.open() as ledger:
        assert ledger.terms("r1", "bob") == ledger.terms("r1", "ada") == '{"agreed":true}'
        with pytest.raises(LedgerError, match="the claim comes first"):
            ledger.terms("r2", "ada")


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [("ada", "train")],
        [("ada", "eval")],
        [("ada", "all")],
        [("ada", "train"), ("ada", "eval"), ("ada", "all")],
        [("ada", "train"), ("bob", "eval")],
    ],
)
def test_blocks_that_the_plan_does_not_charge_are_refused(desk: Desk, blocks: list[tuple[str, str]]) -> None:
    wrong = [Block(client=client, span="undated", split=split) for client, split in blocks]
    with desk.open():
        before = desk.contents()
    with pytest.raises(LedgerError, match="Expected"):
        desk.reserve("r1", blocks=wrong)
    assert desk.contents() == before


def test_a_block_named_twice_pays_once(desk: Desk) -> None:
    desk.reserve("r1", blocks=desk.blocks() * 2)
    assert desk.held()["ada/undated/train"] == pytest.approx(cost(desk, "train"))


@pytest.mark.parametrize("keyed_first", [True, False])
def test_records_never_get_a_second_budget_by_another_split(
    make_desk: Callable[..., Desk], planner: Planner, keyed_first: bool
) -> None:
    desk = make_desk(plan=planner(keyed=keyed_first))
    desk.reserve("r1")
    before = desk.contents()
    with pytest.raises(LedgerError, match="two budgets"):
        desk.reserve("r2", plan=planner(keyed=not keyed_first))
    assert desk.contents() == before


@pytest.mark.parametrize(
    ("column", "value"), [("privacy_unit", "client"), ("neighboring_relation", "replace_one")]
)
def test_events_of_another_unit_or_relation_are_refused(desk: Desk, column: str, value: str) -> None:
    desk.reserve("r1")
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute(f"UPDATE blocks SET {column} = ?", (value,))
    before = desk.contents()
    with pytest.raises(LedgerError, match=value):
        desk.reserve("r2")
    assert desk.contents() == before


def test_a_plan_without_privacy_holds_nothing_and_creates_no_block(
    desk: Desk, not_private: PrivacyPlan
) -> None:
    desk.reserve("r1", plan=not_private, blocks=[])
    desk.reserve("r1", plan=not_private, blocks=[])
    assert desk.held() == {}
    with desk.open() as ledger:
        assert ledger.terms("r1", "ada") == '{"agreed":true}'


def test_a_divergence_that_is_no_number_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedpipe.ledger import admission

    policy = desk.policy
    with desk.open():
        before = desk.contents()
    monkeypatch.setattr(admission, "renyi_divergence", lambda event, order: float("nan"))
    with pytest.raises(BudgetError):
        desk.reserve("r1", policy=policy)
    assert desk.contents() == before


def test_reservations_store_the_event_that_they_are_for(desk: Desk) -> None:
    desk.reserve("r1")
    with closing(sqlite3.connect(desk.path)) as connection:
        rows: list[Any] = connection.execute(
            "SELECT queries.query, step, event, divergence, planned, committed FROM reservations "
            "JOIN queries ON queries.id = reservations.query JOIN blocks ON blocks.id = reservations.block "
            "WHERE blocks.block = 'ada/undated/train'"
        ).fetchall()
    found = {row[0]: row[1:] for row in rows}
    assert set(found) == {"labels", "columns", "features", "training"}
    training = desk.plan.queries["training"].mechanism
    step, event, divergence, planned, committed = found["training"]
    assert (step, planned, committed) == ("train", 3, 0)
    assert event == canonical_json(event_to_json(training.event))
    assert divergence == renyi_divergence(training.event, desk.policy.renyi_order)


def test_spending_says_what_remains(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1)
    with desk.open() as ledger:
        train = next(s for s in ledger.spending() if s.block.split == "train")
    assert train.budget == pytest.approx(desk.policy.renyi_budget)
    assert train.remaining == pytest.approx(train.budget - cost(desk, "train"))
    assert train.num_releases == 1


def test_records_that_would_fall_into_other_blocks_are_refused_and_nothing_changes(desk: Desk) -> None:
    """A fresh block would be a fresh budget."""
    desk.reserve("r1", division="by key, by month")
    before = desk.contents()
    with pytest.raises(LedgerError, match=r"by key, by month.*by year.*keep the first settings"):
        desk.reserve("r2", division="by year")
    assert desk.contents() == before
    desk.reserve("r3", division="by key, by month")
    bob = [Block(client="bob", span="undated", split=split) for split in ("train", "eval")]
    desk.reserve("r4", client="bob", blocks=bob, division="by year")
