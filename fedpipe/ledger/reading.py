"""Opens a ledger for reading alone: one consistent state of it, no key needed, and no writer is held up."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.pool import NullPool

from fedpipe.errors import LedgerError
from fedpipe.ledger import tables
from fedpipe.ledger.chain import check_end, entry_at, newest_entry
from fedpipe.ledger.entries import Entry, LedgerMade
from fedpipe.ledger.stores import BUSY_SECONDS, as_ledger_error, ledger_url, shown, sqlite_path


def ledger_name(location: str | Path) -> str:
    """Returns what a report calls the ledger: of a URL neither user, password nor options.

    >>> ledger_name("postgresql+psycopg://ada:secret@db/bank?options=-csearch_path%3Dnorth")
    'postgresql+psycopg://db/bank'
    """
    return shown(ledger_url(location)) if "://" in str(location) else str(location)


@contextmanager
def open_for_reading(location: str | Path) -> Iterator[Connection]:
    """Opens a ledger whose end agrees with its tables, as an opening for writing checks it.

    Raises:
      LedgerError: there is no ledger at `location`, it is of another format, was edited, or cannot be read.
    """
    url = ledger_url(location)
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        raise LedgerError(f"Expected a ledger at {location}, found none: check --workspace or --ledger.")
    try:
        with as_ledger_error(), snapshot(url) as connection:
            _check_format(connection)
            _check_end(connection)
            yield connection
    except LedgerError as error:
        raise LedgerError(f"{error} (The ledger: {ledger_name(location)}.)") from error


@contextmanager
def snapshot(url: URL) -> Iterator[Connection]:
    """Opens one state of whatever is at `url`, unchecked.

    Raises:
      DatabaseError: it cannot be read.
    """
    path = sqlite_path(url)
    options: dict[str, Any] = (
        {"isolation_level": "REPEATABLE READ", "connect_args": {"connect_timeout": int(BUSY_SECONDS)}}
        if path is None
        else {"creator": _opener(path)}
    )
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool, **options)
    if path is not None:
        # Python's driver by itself would not begin one snapshot for all that follows.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.connect() as connection:
        yield connection


def _check_format(connection: Connection) -> None:
    found = tables.read_format(connection)
    if found != tables.FORMAT_VERSION:
        raise LedgerError(
            f"Expected a ledger of format {tables.FORMAT_VERSION}, found {found or 'no ledger'}: the next "
            "run upgrades an older one; for a later one use the fedpipe that wrote it."
        )


def _check_end(connection: Connection) -> None:
    first, newest = entry_at(connection, 1), newest_entry(connection)
    if first is None or newest is None:
        raise LedgerError("Expected a ledger's entries, found none: see `fedpipe budget check`.")
    check_end(connection, newest, _public_key(first))


def _public_key(first: Entry) -> str:
    try:
        body = first.body
    except (KeyError, ValueError):
        body = None
    return body.public_key if isinstance(body, LedgerMade) else ""


def _opener(path: Path) -> Callable[[], Any]:
    def connect() -> Any:
        connection = sqlite3.connect(f"{path.as_uri()}?{_mode(path)}", uri=True, timeout=BUSY_SECONDS)
        connection.isolation_level = None
        return connection

    return connect


def _mode(path: Path) -> str:
    """Returns how to open a file where SQLite, which shares its log through a second file, may make none."""
    log, shared = (path.with_name(f"{path.name}-{ending}") for ending in ("wal", "shm"))
    if not os.statvfs(path).f_flag & os.ST_RDONLY or shared.exists():
        return "mode=ro"
    if log.exists():
        raise LedgerError(
            f"Expected a folder that can be written, or no log, found {log.name} on a read-only medium: "
            "copy both files to another folder."
        )
    return "mode=ro&immutable=1"  # without a log the file is all there is
