"""Opens a ledger for reading alone: one consistent state of it, and no writer is held up."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from fedpipe.errors import LedgerError
from fedpipe.ledger import tables
from fedpipe.ledger.stores import BUSY_SECONDS


def ledger_name(location: str | Path) -> str:
    """Returns what a report calls the ledger: without the password of a URL."""
    text = str(location)
    return make_url(text).render_as_string(hide_password=True) if "://" in text else text


@contextmanager
def open_for_reading(location: str | Path) -> Iterator[Connection]:
    """Opens a ledger to read one consistent state of it; whoever writes at the same time is not held up.

    Raises:
      LedgerError: there is no ledger at `location`, it is of another format, or it cannot be read.
    """
    name = ledger_name(location)
    url, options = _address(location)
    try:
        engine = create_engine(url, hide_parameters=True, poolclass=NullPool, **options)
        if engine.dialect.name == "sqlite":
            # One snapshot for all that follows, which Python's driver by itself would not begin for a SELECT.
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        with engine.connect() as connection:
            _check_format(connection)
            yield connection
    except (DatabaseError, ModuleNotFoundError) as error:
        reason = getattr(error, "orig", None) or error
        raise LedgerError(
            f"Expected a ledger to read at {name}, found that impossible ({reason}): check --ledger."
        ) from error


def _check_format(connection: Connection) -> None:
    found = tables.read_format(connection)
    if found != tables.FORMAT_VERSION:
        raise LedgerError(
            f"Expected a ledger of format {tables.FORMAT_VERSION}, found {found or 'no ledger'}: the next run "
            "upgrades an older one; for a later one use the fedpipe that wrote it."
        )


def _address(location: str | Path) -> tuple[str, dict[str, Any]]:
    text = str(location)
    if "://" in text:
        return text, {"isolation_level": "REPEATABLE READ"}
    path = Path(text).absolute()
    if not path.is_file():
        raise LedgerError(f"Expected a ledger at {text}, found none: check --workspace or --ledger.")
    return "sqlite://", {"creator": _opener(path)}


def _opener(path: Path) -> Callable[[], Any]:
    def connect() -> Any:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        connection.isolation_level = None
        return connection

    return connect
