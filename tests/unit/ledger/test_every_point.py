"""A claim's whole life, killed with SIGKILL at every statement and every durable change of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from fedpipe.ledger import LedgerStore
from fedpipe.ledger.check import check_ledger
from fedpipe.privacy.accounting import renyi_divergence

if TYPE_CHECKING:
    from conftest import Desk

FORK = multiprocessing.get_context("fork")
RELEASES = (("statistics", 0), ("preprocess", 0), ("train", 1), ("train", 2))


@contextmanager
def dying_at(point: int) -> Iterator[None]:
    """Kills this process at one point, counted from 1: around statements, commits, links and syncs."""
    passed = 0

    def step(*_arguments: object) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            step()
            result = function(*args, **kwargs)
            step()
            return result

        return watched

    event.listen(Engine, "before_cursor_execute", step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultDialect, "do_commit", around(DefaultDialect.do_commit))
        for name in ("link", "replace", "fsync", "unlink"):
            patch.setattr(os, name, around(getattr(os, name)))
        yield
    event.remove(Engine, "before_cursor_execute", step)


def live(desk: Desk, point: int, sent: int) -> None:
    """Claims, releases and closes; every release that leaves is written down, as its receiver would."""
    with dying_at(point):
        desk.reserve("r1")
        os.write(sent, b"c")
        for step, server_round in RELEASES:
            desk.commit("r1", step, server_round)
            os.write(sent, b"r")
        desk.close("r1")
        os.write(sent, b"e")


def died(desk: Desk, point: int) -> tuple[bool, str]:
    """Returns whether a process died there, and what had left it."""
    reader, writer = os.pipe()
    child = FORK.Process(target=live, args=(desk, point, writer))
    child.start()
    os.close(writer)
    with open(reader) as stream:
        sent = stream.read()
    child.join(timeout=60)
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0, sent


def check_after_death(desk: Desk, sent: str) -> None:
    """Never less is counted than what left; and what is not proved unreleased counts as spent."""
    order = desk.policy.renyi_order
    whole = {
        f"ada/undated/{split}": sum(
            renyi_divergence(query.events, order) for query in desk.plan.queries_for(split).values()
        )
        for split in desk.plan.splits
    }
    with desk.open() as ledger:
        held = {str(spending.block): spending.held for spending in ledger.spending()}
        num_releases = ledger.num_releases("r1")
        closed = any(entry.kind == "close" for entry in ledger.entries())
    assert num_releases >= sent.count("r")
    if closed:
        assert num_releases == len(RELEASES)
    elif held or sent:
        assert held == pytest.approx(whole)
    assert check_ledger(LedgerStore.at(desk.path)).findings == ()


def go_on(desk: Desk) -> None:
    """What a resumed run does: its claim is adopted, and what was answered is not asked again."""
    with desk.open() as ledger:
        if any(entry.kind == "close" for entry in ledger.entries()):
            return
    desk.reserve("r1")
    for step, server_round in RELEASES:
        release = desk.release("r1", step, server_round)
        with desk.open() as ledger:
            known = any(
                f'"server_round":{server_round},"step":"{step}"' in entry.text for entry in ledger.entries()
            )
        if not known:
            desk.commit(release.run_id, step, server_round)
    desk.close("r1")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_death_at_every_point_undercounts_nothing_and_costs_nothing_more(
    make_desk: Callable[..., Desk], desk: Desk, part: int
) -> None:
    desk.reserve("r1")
    for step, server_round in RELEASES:
        desk.commit("r1", step, server_round)
    desk.close("r1")
    expected = desk.held()
    for point in range(1 + part, 2000, 4):
        killed = make_desk(path=desk.path.parent / str(point) / "ledger.db")
        is_dead, sent = died(killed, point)
        if not is_dead:
            assert point > 100  # all of them were tried
            assert sent == "crrrre"
            return
        check_after_death(killed, sent)
        go_on(killed)
        assert killed.held() == pytest.approx(expected)
        assert check_ledger(LedgerStore.at(killed.path)).findings == ()
    pytest.fail("it never came to its end")
