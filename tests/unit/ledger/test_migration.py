"""Ledgers of format 2 become ledgers of today, and forget nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import URL, Connection, inspect

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import LedgerStore, migration, stores, tables
from fedpipe.ledger.check import check_ledger
from fedpipe.privacy import event_to_json
from fedpipe.privacy.accounting import renyi_divergence

if TYPE_CHECKING:
    from conftest import Desk

FORK = multiprocessing.get_context("fork")
MADE = "2024-04-01T00:00:00.000+00:00"


def make_empty(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    with stores.engine_of(URL.create("sqlite", database=str(path))).begin() as connection:
        command.upgrade(migration.alembic_config(connection), "2")
        connection.exec_driver_sql("DROP TABLE alembic_version")  # as the old program made it


@pytest.fixture
def old(desk: Desk) -> Desk:
    """A ledger of format 2: r1 closed after one round of training, r2 open after two."""
    make_empty(desk.path)
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("INSERT INTO divisions VALUES ('ada', '')")
        policy = desk.policy
        for block in desk.blocks():
            row = (
                *(str(block), "ada", block.span, block.split, "record", "add_or_remove_one"),
                *(policy.epsilon, policy.delta, policy.renyi_order, policy.renyi_budget, MADE),
            )
            connection.execute(f"INSERT INTO blocks VALUES ({','.join('?' * len(row))})", row)
        for run, state, rounds in (("r1", "closed", 1), ("r2", "open", 2)):
            _insert_claim(connection, desk, run, state, rounds)
    return desk


def _insert_claim(connection: sqlite3.Connection, desk: Desk, run: str, state: str, rounds: int) -> None:
    claim = (f"{run}/ada", run, "ada", "d1", '{"agreed":true}', state, MADE)
    connection.execute("INSERT INTO claims VALUES (?,?,?,?,?,?,?)", claim)
    for block in desk.blocks():
        for name, query in desk.plan.queries_for(block.split).items():
            event = query.mechanism.event
            divergence = renyi_divergence(event, desk.policy.renyi_order)
            committed = rounds if query.step == "train" else 0
            row: tuple[Any, ...] = (
                *(claim[0], str(block), name, query.step, canonical_json(event_to_json(event))),
                *(divergence, query.mechanism.num_releases, committed),
            )
            connection.execute("INSERT INTO reservations VALUES (?,?,?,?,?,?,?,?)", row)
    for number in range(1, rounds + 1):
        reply = f"train/{number}/0".encode() if state == "open" and number == rounds else None
        connection.execute(
            "INSERT INTO releases VALUES (?,?,?,?,?,?,?)", (claim[0], "train", number, 0, "r1", reply, MADE)
        )


def test_an_old_ledger_is_upgraded_and_forgets_nothing(old: Desk) -> None:
    order = old.policy.renyi_order
    whole = sum(renyi_divergence(query.events, order) for query in old.plan.queries_for("train").values())
    one_round = renyi_divergence(old.plan.queries["training"].mechanism.event, order)
    held = old.held()
    assert held["ada/undated/train"] == pytest.approx(whole + one_round)
    with old.open() as ledger:
        assert ledger.num_releases("r2") == 2
        assert ledger.stored_reply(old.release("r2", "train", 2), "r1") == b"train/2/0"
        with pytest.raises(LedgerError, match="no longer kept"):
            ledger.stored_reply(old.release("r2", "train", 1), "r1")
        assert {spending.policy for spending in ledger.spending()} == {old.policy}
    old.reserve("r2")  # adopted
    old.commit("r2", "train", 3)
    with pytest.raises(BudgetError):
        old.commit("r2", "train", 4)
    old.reserve("r3")
    with pytest.raises(BudgetError):
        old.reserve("r4")
    found = check_ledger(LedgerStore.at(old.path))
    assert found.findings == ()
    with old.open() as ledger:
        first = next(ledger.entries())
    assert '"upgraded_from":"2"' in first.text


def test_an_upgraded_ledger_has_the_tables_of_a_new_one(old: Desk, tmp_path: Path) -> None:
    old.held()
    make_new = tmp_path / "new" / "ledger.db"
    type(old)(path=make_new).held()
    columns = []
    for path in (old.path, make_new):
        with stores.engine_of(URL.create("sqlite", database=str(path))).connect() as connection:
            inspector = inspect(connection)
            names = set(inspector.get_table_names()) - {"alembic_version", "info"}
            columns.append(
                {name: [(c["name"], str(c["type"])) for c in inspector.get_columns(name)] for name in names}
            )
    assert columns[0] == columns[1]


def test_an_interrupted_upgrade_leaves_the_old_ledger(old: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = old.contents()
    create_all = tables.metadata.create_all

    def create_then_die(connection: Connection) -> None:
        create_all(connection)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(tables.metadata, "create_all", create_then_die)
        child = FORK.Process(target=old.held)
        child.start()
        child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    assert old.contents() == before
    assert old.held()["ada/undated/train"] > 0
    assert check_ledger(LedgerStore.at(old.path)).findings == ()


def test_processes_that_upgrade_at_once_do_it_once(old: Desk) -> None:
    children = [FORK.Process(target=old.held) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
    assert [child.exitcode for child in children] == [0] * 4
    with old.open() as ledger:
        assert [entry.kind for entry in ledger.entries()].count("ledger") == 1


def test_a_check_says_that_an_old_ledger_is_still_to_be_upgraded(old: Desk) -> None:
    before = old.contents()
    with pytest.raises(LedgerError, match="upgraded when it is next used"):
        check_ledger(LedgerStore.at(old.path))
    assert old.contents() == before


def test_a_ledger_of_today_opens_without_the_migrations(desk: Desk) -> None:
    desk.held()
    program = (
        "import sys; from pathlib import Path; from fedpipe.ledger import Ledger\n"
        f"with Ledger(Path({str(desk.path)!r})): pass\n"
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
