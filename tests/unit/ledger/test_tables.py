from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Engine

from fedpipe.errors import LedgerError
from fedpipe.ledger import Ledger, stores

if TYPE_CHECKING:
    from conftest import Desk


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_a_ledger(desk: Desk) -> None:
    with desk.open() as ledger:
        desk.reserve("r1")
        ledger.spending()
        files = {path.name: mode(path) for path in desk.path.parent.iterdir()}
        assert files == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600} | {
            "ledger.db.key": 0o600
        }
    assert mode(desk.path) == 0o600


def test_making_a_ledger_leaves_no_draft_behind(desk: Desk) -> None:
    with desk.open():
        pass
    assert sorted(path.name for path in desk.path.parent.iterdir()) == ["ledger.db", "ledger.db.key"]


def test_every_transaction_is_durable_and_holds_the_write_lock(desk: Desk) -> None:
    with desk.open() as ledger, ledger._transaction() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas]
        assert found == ["wal", 2, 1]
        # Reading alone holds it too: what was read stays true until the commit.
        other = sqlite3.connect(desk.path, timeout=0)
        with closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")


def test_a_ledger_keeps_its_content_when_opened_again(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.contents()
    with desk.open():
        pass
    assert desk.contents() == before


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to look at" * 50])
def test_a_file_that_is_no_database_is_refused_and_left_alone(desk: Desk, content: bytes) -> None:
    # An empty file is what a failed copy leaves: starting afresh would forget what was spent.
    desk.path.parent.mkdir()
    desk.path.write_bytes(content)
    with pytest.raises(LedgerError, match="forget what was spent"):
        desk.open()
    assert desk.path.read_bytes() == content


def test_another_programs_database_is_refused_and_left_alone(desk: Desk) -> None:
    desk.path.parent.mkdir()
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = desk.path.read_bytes()
    with pytest.raises(LedgerError, match="no ledger"):
        desk.open()
    assert desk.path.read_bytes() == before


def test_another_format_version_is_refused_and_left_alone(desk: Desk) -> None:
    desk.reserve("r1")
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("UPDATE info SET value = '99'")
    before = desk.contents()
    with pytest.raises(LedgerError, match="found 99"):
        desk.open()
    assert desk.contents() == before


def test_a_directory_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        Ledger(tmp_path)


def test_a_place_where_no_file_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="Expected to make a ledger"):
        Ledger(tmp_path / "file" / "ledger.db")


def test_a_refused_file_is_named(desk: Desk) -> None:
    desk.path.parent.mkdir()
    desk.path.write_bytes(b"")
    with pytest.raises(LedgerError, match=str(desk.path)):
        desk.open()


def test_errors_of_the_database_hold_neither_reply_nor_path(desk: Desk) -> None:
    desk.reserve("r1")
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        connection.execute("DROP TABLE releases")
        connection.execute("CREATE TABLE releases (claim TEXT)")
    with pytest.raises(LedgerError) as error, desk.open() as ledger:
        ledger.commit(desk.release("r1", "train", 1), request_digest="r1", reply=b"SECRET")
    assert "SECRET" not in f"{error.value} {error.value.__cause__!r} {error.value.__cause__}"
    assert str(desk.path) not in str(error.value)  # it may travel in a refusal


def test_a_new_ledger_is_whole_in_the_one_file_that_appears(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk SQLite may leave tables in the log beside the draft; here a reader makes it do so."""
    readers = []
    open_draft = stores.engine_of

    def with_a_reader(url: URL) -> Engine:
        readers.append(sqlite3.connect(str(url.database)))
        readers[-1].execute("SELECT * FROM sqlite_master").fetchall()
        return open_draft(url)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "engine_of", with_a_reader)
        desk.open().__exit__()
    for reader in readers:
        reader.close()
    with desk.open() as ledger:
        assert ledger.spending() == []
