"""Where a ledger lies: a SQLite file, or a PostgreSQL database. Both make commits durable, one at a time.

The key that signs a ledger is a file of its own. It appears after its ledger; so a key without one
means that the ledger vanished, and a new one would forget what was spent.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError
from sqlalchemy.pool import NullPool

from fedpipe.errors import LedgerError
from fedpipe.files import make_private_directory, sync_directory
from fedpipe.ledger import tables
from fedpipe.signing import SigningKey, hold_key

BUSY_SECONDS = 30.0
KEPT_BYTES = 16 << 20  # that a SQLite file may have free
POSTGRESQL = "postgresql+psycopg"

# One lock for each ledger, that is for each schema: whoever holds it is alone until it commits.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('fedpipe ledger ' || coalesce(current_schema(), '')))"
_SETTINGS = (
    "SELECT set_config('lock_timeout', %s, false), current_setting('synchronous_commit'), "
    "current_setting('fsync'), current_schema()"
)

logger = logging.getLogger(__name__)

Founder = Callable[[Connection, SigningKey], None]


@dataclass(frozen=True, kw_only=True)
class LedgerStore:
    """A ledger's place and the file of its key. Shown without user, password and options."""

    url: URL
    key_path: Path

    @classmethod
    def at(cls, place: Path | str, *, key: Path | None = None) -> LedgerStore:
        """Returns the store at a path, or at a URL of PostgreSQL, which needs a `key`.

        Raises:
          LedgerError: it is no such URL, or has no key.

        >>> store = LedgerStore.at("postgresql+psycopg://ada:secret@db/bank", key=Path("bank.key"))
        >>> print(store)
        postgresql+psycopg://db/bank
        """
        url = ledger_url(place)
        path = sqlite_path(url)
        if key is None and path is None:
            raise LedgerError(
                f"Expected the file of the key that signs ledger {shown(url)}, found none given."
            )
        return cls(url=url, key_path=key or Path(f"{path}.key"))

    @property
    def path(self) -> Path | None:
        """The file of a SQLite ledger."""
        return sqlite_path(self.url)

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return f"LedgerStore({self})"

    def open(self, found: Founder) -> Engine:
        """Returns an engine on the ledger, which `found` lays out if there is none.

        Raises:
          LedgerError: the ledger is gone though its key is there.
        """
        if not self.key_path.exists() or not (self.path is None or self.path.exists()):
            make_private_directory(self.key_path.parent)
            with _alone(self.key_path.parent):
                self._found(found)
        return engine_of(self.url)

    def _found(self, found: Founder) -> None:
        fresh = self.key_path.with_name(f"{self.key_path.name}.new")
        if not self._exists():
            if self.key_path.exists():
                raise LedgerError(
                    f"Expected the ledger that {self.key_path} signed, found it gone: restore it from a "
                    "backup. A new one would forget what was spent; if that is meant, move the key away."
                )
            key = hold_key(fresh)
            if self.path is None:
                with engine_of(self.url).begin() as transaction:
                    found(transaction, key)
            else:
                _make_file(self.path, lambda transaction: found(transaction, key))
        if fresh.exists() and not self.key_path.exists():
            os.replace(fresh, self.key_path)
            sync_directory(self.key_path.parent)

    def _exists(self) -> bool:
        if self.path is not None:
            return self.path.exists()
        with engine_of(self.url).begin() as transaction:
            return tables.read_format(transaction) is not None


def shrink_file(connection: Connection) -> None:
    """Gives the disk back what dropped replies took in a SQLite file, once that is most of the file.

    No row changes. SQLite does it whole or not at all: on a full disk, the end of a later run tries again.
    """
    if connection.dialect.name != "sqlite":
        return
    sqlite: Any = connection.connection.dbapi_connection
    free, pages, size = (
        sqlite.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("freelist_count", "page_count", "page_size")
    )
    if free * size < KEPT_BYTES or 2 * free < pages:
        return
    try:
        sqlite.execute("VACUUM")
        sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        logger.warning("The ledger's file stays as large as it was (%s).", error)


@contextmanager
def as_ledger_error() -> Iterator[None]:
    """Raises what goes wrong in a database as LedgerError, which names neither path nor server."""
    try:
        yield
    except DatabaseError as error:
        # A message of PostgreSQL may name users and values; SQLite's never do.
        orig = error.orig
        reason = str(orig) if isinstance(orig, sqlite3.Error) else type(orig).__name__
        raise LedgerError(
            f"Expected a usable ledger, found one that its database cannot use ({reason}). If damaged, "
            "restore it from a backup: a new ledger would forget what was spent."
        ) from error


def ledger_url(place: Path | str) -> URL:
    """Returns the URL of the ledger at a path, or at a URL of PostgreSQL.

    Raises:
      LedgerError: it is another URL.
    """
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(Path(place).absolute()))
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        url = None  # the error would show the text, a password maybe
    if url is None or url.drivername != POSTGRESQL:
        raise LedgerError(f"Expected a path or a URL {POSTGRESQL}://HOST/DATABASE, found another URL.")
    return url


def sqlite_path(url: URL) -> Path | None:
    """Returns the file of a SQLite ledger, None for a database."""
    return Path(str(url.database)) if url.drivername == "sqlite" else None


def shown(url: URL) -> str:
    """Returns `url` as messages name it: a path, or a URL without user, password and options."""
    if url.drivername == "sqlite":
        return str(url.database)
    return f"{url.drivername}://{url.host or ''}{f':{url.port}' if url.port else ''}/{url.database or ''}"


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps other founders out; the lock ends with its process and leaves no file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_file(path: Path, found: Callable[[Connection], None]) -> None:
    """Makes a ledger appear at `path` complete (mode 600)."""
    make_private_directory(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
        draft = Path(directory) / path.name
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with engine_of(URL.create("sqlite", database=str(draft))).begin() as transaction:
            found(transaction)
        # Last, and it stays with the file: with a log, a full disk could keep the tables out of the file
        # itself, which alone is linked.
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        os.link(draft, path)
    sync_directory(path.parent)


@lru_cache(maxsize=64)
def engine_of(url: URL) -> Engine:
    """Returns the process's engine for `url`. It keeps compiled statements and nothing open."""
    sqlite = url.drivername == "sqlite"
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_SECONDS} if sqlite else {"connect_timeout": int(BUSY_SECONDS)},
        hide_parameters=True,  # they hold replies and terms, which belong in no error message
        poolclass=NullPool,
        # Every statement after the lock must see what was committed before it. A server whose default is
        # stricter would show what was there when the wait for the lock began.
        **({} if sqlite else {"isolation_level": "READ COMMITTED"}),
    )
    event.listen(engine, "connect", _configure_sqlite if sqlite else _configure_postgresql)
    # Admission reads and writes under one lock, so that two coordinators cannot both see the last of a
    # budget as free.
    begin = "BEGIN IMMEDIATE" if sqlite else _LOCK
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we begin transactions ourselves
    cursor = connection.cursor()
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_postgresql(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SETTINGS, [f"{BUSY_SECONDS:g}s"])
        *durability, schema = cursor.fetchone()[1:]
        for setting, value in zip(("synchronous_commit", "fsync"), durability, strict=True):
            if value == "off":
                raise LedgerError(
                    f"Expected a PostgreSQL server that makes commits durable, found {setting}=off: turn "
                    "it on. A crash would forget what was spent."
                )
        if schema is None:
            raise LedgerError("Expected a schema for the ledger, found none: create it, or name another.")
    connection.commit()
