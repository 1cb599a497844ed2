from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedpipe.errors import LedgerError
from fedpipe.ledger import SignedHead
from fedpipe.ledger.history_reading import Choice, client_names, read_events, read_history
from fedpipe.ledger.reading import ledger_name, open_for_reading
from fedpipe.privacy import PrivacyPlan, event_from_json
from fedpipe.privacy.accounting import renyi_divergence

if TYPE_CHECKING:
    from conftest import Desk


def release_all(desk: Desk, run_id: str) -> None:
    for step in ("statistics", "preprocess", "analyze"):
        desk.commit(run_id, step)
    for number in range(1, 4):
        desk.commit(run_id, "train", number)


def test_a_history_agrees_with_what_the_filter_counts(desk: Desk) -> None:
    desk.reserve("r1")
    release_all(desk, "r1")
    desk.close("r1")
    desk.reserve("r2")
    desk.commit("r2", "statistics")
    for each in read_history(desk.path).blocks:
        assert each.spent + each.reserved == pytest.approx(desk.held()[str(each.block)], rel=1e-12)
        assert each.left == pytest.approx(each.budget - desk.held()[str(each.block)], rel=1e-12)
        assert [charge.run_id for charge in each.charges] == ["r1", "r2"]
        assert each.charges[0].reserved == 0
        assert each.charges[1].reserved > 0


def test_what_an_open_claim_may_still_release_is_reserved_and_freed_when_it_closes(desk: Desk) -> None:
    desk.reserve("r1")
    [block, _] = read_history(desk.path).blocks
    assert (block.spent, block.num_releases) == (0, 0)
    assert block.reserved > 0
    desk.commit("r1", "statistics")
    desk.close("r1")
    [block, _] = read_history(desk.path).blocks
    assert block.reserved == 0
    assert block.spent == pytest.approx(desk.held()[str(block.block)])
    assert block.spent > 0


def test_events_add_up_to_what_the_block_holds(desk: Desk) -> None:
    desk.reserve("r1")
    release_all(desk, "r1")
    desk.close("r1")
    desk.reserve("r2")  # open: its reservations count
    history = read_history(desk.path)
    found = read_events(desk.path, [each.block for each in history.blocks])
    for each in history.blocks:
        total = sum(
            number * renyi_divergence(event_from_json(json.loads(text)), each.policy.renyi_order)
            for text, number in found[each.block].items()
        )
        assert total == pytest.approx(each.spent + each.reserved)


def test_runs_come_with_their_releases_and_steps(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    history = read_history(desk.path)
    [run] = history.runs
    assert (run.run_id, run.num_releases, run.clients, run.is_open) == ("r1", 1, ("ada",), True)
    assert run.began_at.startswith("2024-05-01T12:00")
    [step] = history.steps
    shares = sum(each.spent / each.budget for each in history.blocks)
    assert (step.step, step.span) == ("statistics", "undated")
    assert step.shares == pytest.approx(shares)
    assert [(day.date, day.step, day.num_releases) for day in history.days] == [
        ("2024-05-01", "statistics", 1)
    ]


def test_a_run_without_noise_is_no_private_run(desk: Desk, not_private: PrivacyPlan) -> None:
    desk.reserve("r1", plan=not_private, blocks=[])
    desk.commit("r1", "statistics", charged=False)
    assert [run.protection for run in read_history(desk.path).runs] == ["NOT PRIVATE"]


def test_seeded_noise_is_told(desk: Desk, planner: Callable[..., PrivacyPlan]) -> None:
    plan = planner().model_copy(update={"randomness": "seeded"})
    desk.reserve("r1", plan=plan, terms=json.dumps({"plan": plan.model_dump()}, separators=(",", ":")))
    assert [run.protection for run in read_history(desk.path).runs] == ["seeded"]


def test_one_client_or_span_can_be_read_alone(make_desk: Callable[..., Desk]) -> None:
    ada, bob = make_desk(), make_desk(client="bob", span="2026-01")
    for desk in (ada, bob):
        desk.reserve("r1")
        desk.commit("r1", "statistics")
    both, one = read_history(ada.path), read_history(ada.path, Choice(client="bob"))
    assert client_names(ada.path) == ["ada", "bob"]
    assert len(both.blocks) == 4
    assert one.blocks == tuple(each for each in both.blocks if each.block.client == "bob")
    assert [run.clients for run in one.runs] == [("bob",)]
    assert sum(day.num_releases for day in one.days) == 1
    assert read_history(ada.path, Choice(spans=frozenset({"2026-01"}))).blocks == one.blocks


def test_reading_changes_nothing_and_makes_no_file(desk: Desk, tmp_path: Path) -> None:
    desk.reserve("r1")
    before = desk.contents()
    read_history(desk.path)
    assert desk.contents() == before
    with pytest.raises(LedgerError, match="found none"):
        read_history(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()


def test_a_reader_holds_up_no_release_and_sees_one_state(desk: Desk) -> None:
    from sqlalchemy import func, select

    from fedpipe.ledger import tables

    desk.reserve("r1")
    count = select(func.count()).select_from(tables.releases)
    with open_for_reading(desk.path) as connection:
        assert connection.execute(count).scalar_one() == 0
        desk.commit("r1", "statistics")  # would wait for a lock
        assert connection.execute(count).scalar_one() == 0


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to look at" * 40])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"Expected a (usable )?ledger"):
        read_history(path)
    assert path.read_bytes() == content


def test_neither_user_nor_options_of_a_url_are_shown() -> None:
    url = "postgresql+psycopg://ann:secret@host/db?options=-csearch_path%3Dnorth"
    assert ledger_name(url) == "postgresql+psycopg://host/db"


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE queries SET committed = 0",
        "DELETE FROM releases",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE position > 3",
        "UPDATE entries SET text = '{}' WHERE position = 1",
        "UPDATE entries SET made_at = 'x'",
    ],
)
def test_nothing_is_read_from_an_edited_ledger(desk: Desk, edit: str) -> None:
    """A report of less than was spent would be believed."""
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute(edit)
    with pytest.raises(LedgerError, match="budget check"):
        read_history(desk.path)


def test_of_a_block_in_a_gap_everything_is_spent(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    with desk.open() as ledger:
        lost = SignedHead.sign(ledger.key, 99, "a" * 64)
        with pytest.raises(LedgerError, match="older backup"):
            ledger.meet(lost)
    for block in read_history(desk.path).blocks:
        assert block.in_gap
        assert (block.spent, block.reserved, block.left) == (block.budget, 0.0, 0.0)


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
IN_PRIVATE = ("unshare", "--user", "--map-root-user", "--mount")
SPENT = """
import json, sys
from fedpipe.errors import LedgerError
from fedpipe.ledger.history_reading import read_history
try:
    print(json.dumps([each.spent for each in read_history(sys.argv[1]).blocks]))
except LedgerError as error:
    print(error)
"""


def read_from_archive(path: Path) -> str:
    """Returns what reading the ledger prints where its folder cannot be written."""
    words = (*IN_PRIVATE, "bash", "-c", READ_ONLY, "bash", path.parent, sys.executable, "-c", SPENT, path)
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(
    subprocess.run([*IN_PRIVATE, "true"], check=False).returncode != 0, reason="needs user namespaces"
)
def test_a_ledger_on_a_read_only_medium_is_read_or_what_it_lacks_is_said(desk: Desk, tmp_path: Path) -> None:
    desk.reserve("r1")
    with closing(sqlite3.connect(desk.path)) as connection:
        connection.execute("SELECT * FROM sqlite_schema")  # while it is open nobody folds the log in
        desk.commit("r1", "statistics")
        copied = tmp_path / "archive" / "ledger.sqlite"
        copied.parent.mkdir()
        for ending in ("", "-wal"):
            shutil.copy(f"{desk.path}{ending}", f"{copied}{ending}")
        spent = [each.spent for each in read_history(desk.path).blocks]
        assert json.loads(read_from_archive(desk.path)) == spent
    assert json.loads(read_from_archive(desk.path)) == spent
    assert any(spent)
    assert "found ledger.sqlite-wal on a read-only medium" in read_from_archive(copied)
