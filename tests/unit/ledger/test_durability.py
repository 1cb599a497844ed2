"""Processes that die at the worst moment, and processes that race."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.ledger import Ledger, admission, claims, projection, stores
from tests.races import FORK, race

if TYPE_CHECKING:
    from conftest import Desk


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(action: Callable[[], None]) -> None:
    child = FORK.Process(target=action)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL


def test_death_after_the_reservation_leaves_it_counted(desk: Desk) -> None:
    def action() -> None:
        desk.reserve("r1")
        die()

    run_until_killed(action)
    held = desk.held()
    assert held["ada/undated/train"] > 0
    desk.reserve("r2")
    desk.reserve("r3")
    with pytest.raises(BudgetError):
        desk.reserve("r4")
    desk.reserve("r1")  # the resumed run adopts its claim
    desk.commit("r1", "statistics")


def test_death_within_the_reservation_leaves_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk.open():
        before = desk.contents()
    project_claim = projection._reserve

    def reserve_then_die(*arguments: Any) -> None:
        project_claim(*arguments)
        die()

    monkeypatch.setattr(projection, "_reserve", reserve_then_die)
    run_until_killed(lambda: desk.reserve("r1"))
    assert desk.contents() == before


def test_death_after_the_commit_leaves_the_reply_and_its_charge(desk: Desk) -> None:
    desk.reserve("r1")

    def action() -> None:
        desk.commit("r1", "train", 1)
        die()

    run_until_killed(action)
    with desk.open() as ledger:
        assert ledger.stored_reply(desk.release("r1", "train", 1), "r1") == b"train/1/0"
        assert ledger.num_releases("r1") == 1
    held = desk.held()
    desk.close("r1")
    assert 0 < desk.held()["ada/undated/train"] < held["ada/undated/train"]


def test_death_within_the_commit_leaves_the_release_to_be_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.reserve("r1")
    before = desk.contents()
    with monkeypatch.context() as patch:
        patch.setattr(claims, "forget_replies", lambda *arguments, **names: die())
        run_until_killed(lambda: desk.commit("r1", "train", 1))
    assert desk.contents() == before
    desk.commit("r1", "train", 1)


def test_an_error_within_the_commit_leaves_the_release_to_be_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.reserve("r1")
    before = desk.contents()

    def fail(*arguments: Any, **names: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(claims, "forget_replies", fail)
    with pytest.raises(RuntimeError):
        desk.commit("r1", "train", 1)
    assert desk.contents() == before


@pytest.mark.parametrize("attempt", range(8))
def test_one_of_two_processes_gets_the_last_of_a_budget(make_desk: Callable[..., Desk], attempt: int) -> None:
    desk = make_desk(runs=1)
    assert race([lambda: desk.reserve("r1"), lambda: desk.reserve("r2")]) == ["BudgetError", "won"]
    with desk.open() as ledger:
        assert all(spending.held <= spending.budget for spending in ledger.spending())


def test_one_of_many_processes_makes_the_last_release(desk: Desk) -> None:
    desk.reserve("r1")
    actions = [partial(desk.commit, "r1", "preprocess", 0, number) for number in range(5)]
    assert race(actions) == ["BudgetError"] * 4 + ["won"]


def test_the_same_release_made_at_once_is_charged_once(desk: Desk) -> None:
    desk.reserve("r1")
    assert race([lambda: desk.commit("r1", "train", 1)] * 3) == ["LedgerError"] * 2 + ["won"]
    with desk.open() as ledger:
        assert ledger.num_releases("r1") == 1


def test_the_same_claim_made_at_once_is_one_claim(desk: Desk) -> None:
    assert race([lambda: desk.reserve("r1")] * 4) == ["won"] * 4
    once = desk.held()
    desk.reserve("r1")
    assert desk.held() == once


def test_a_release_and_the_end_of_its_claim_do_not_cross(desk: Desk) -> None:
    for run in ("r1", "r2", "r3"):
        desk.reserve(run)
        desk.commit(run, "statistics")
        found = race([partial(desk.commit, run, "train", 1), partial(desk.close, run)])
        with desk.open() as ledger:
            assert ledger.num_releases(run) == 1 + (found == ["won", "won"])
        assert found in (["won", "won"], ["LedgerError", "won"])


@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_make_a_ledger_at_once_share_it(desk: Desk, attempt: int) -> None:
    def action() -> None:
        with Ledger(desk.path) as ledger:
            ledger.spending()

    assert race([action] * 6) == ["won"] * 6
    assert desk.contents()["info"] == [("format_version", "3")]


def test_a_ledger_that_stays_locked_is_an_error_of_ours(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BUSY_SECONDS", 0.05)
    with desk.open():
        stores.engine_of.cache_clear()
    with desk.open() as ledger, desk.open() as other, ledger._transaction():
        refusal = pytest.raises(LedgerError, match="locked")
        with refusal:
            other.spending()


def test_admission_is_decided_on_what_is_stored(desk: Desk) -> None:
    desk.reserve("r1")
    with desk.open() as ledger, ledger._transaction() as connection:
        spending = {str(s.block): s.held for s in admission.all_spending(connection)}
    assert spending == desk.held()
