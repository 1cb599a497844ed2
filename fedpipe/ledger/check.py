"""Whether a ledger is what its entries say, and its entries what its key signed.

One state of it is read and replayed; nothing is changed, and no release waits for it. Somebody who
holds the ledger's key can write another history: only heads that others keep tell it from the first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, String, Table, and_, create_engine, func, select
from sqlalchemy.exc import DatabaseError

from fedpipe.errors import LedgerError
from fedpipe.files import sha256
from fedpipe.ledger import tables
from fedpipe.ledger.admission import all_spending
from fedpipe.ledger.chain import all_entries, entry_at
from fedpipe.ledger.entries import BEGINNING, Entry, LedgerMade, SignedHead
from fedpipe.ledger.heads import witnessed_head
from fedpipe.ledger.projection import project, totals
from fedpipe.ledger.reading import ledger_name, open_for_reading, snapshot
from fedpipe.ledger.stores import LedgerStore
from fedpipe.signing import read_key

# Sums in another order, and claims that policies admit with a hair to spare.
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What a check found: of a sound ledger no `findings`. `gaps` are known and counted as spent."""

    num_entries: int
    gaps: tuple[str, ...]
    findings: tuple[str, ...]


def check_ledger(
    store: LedgerStore, heads: Iterable[SignedHead] = (), *, witnesses: Iterable[str | Path] = ()
) -> Examination:
    """Returns what is wrong with a ledger.

    Args:
      store: where it lies.
      heads: heads of it that others keep.
      witnesses: ledgers of others, which must have seen it, and whose every head of it must be in its chain.

    Raises:
      LedgerError: there is none, or it is of another format; or a witness cannot be read.
    """
    if store.path is not None and not store.path.exists():
        raise LedgerError(f"Expected a ledger at {store}, found none.")
    findings: list[str] = []
    gaps: tuple[str, ...] = ()
    replay = _Replay()
    try:
        with snapshot(store.url) as connection:
            findings.extend(_integrity(connection))
            _check_format(connection)
            findings.extend(_check_chain(connection, store, replay))
            findings.extend(_check_tables(connection, replay))
            findings.extend(_check_heads(connection, replay.public, heads))
            for witness in witnesses:
                findings.extend(_check_witness(connection, replay.public, witness))
            gaps = tuple(_gaps(connection))
    except DatabaseError as error:
        reason = str(error.orig) if isinstance(error.orig, sqlite3.Error) else type(error.orig).__name__
        findings.append(f"the database cannot be read: {reason}; restore it from a backup")
    finally:
        replay.close()
    return Examination(num_entries=replay.num_entries, gaps=gaps, findings=tuple(dict.fromkeys(findings)))


class _Replay:
    """A ledger in memory that follows from the entries alone."""

    def __init__(self) -> None:
        self.connection = create_engine("sqlite://").connect()
        tables.metadata.create_all(self.connection)
        self.num_entries = 0
        self.public = ""
        self.is_complete = True

    def apply(self, entry: Entry) -> str | None:
        """Returns why `entry` cannot follow from those before; then no more are applied."""
        self.num_entries += 1
        if not self.is_complete:
            return None
        try:
            body = entry.body
            if isinstance(body, LedgerMade):
                self.public = body.public_key
            project(self.connection, body, position=entry.position, made_at=entry.made_at)
        except (LedgerError, DatabaseError, KeyError, ValueError) as error:
            self.is_complete = False
            return f"entry {entry.position}: contradicts the entries before ({type(error).__name__})"
        return None

    def close(self) -> None:
        self.connection.close()


def _integrity(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        for (found,) in connection.exec_driver_sql("PRAGMA integrity_check(10)"):
            if found != "ok":
                yield f"the file is damaged: {found}"


def _check_format(connection: Connection) -> None:
    found = tables.read_format(connection)
    if found != tables.FORMAT_VERSION:
        raise LedgerError(
            f"Expected a ledger of format {tables.FORMAT_VERSION}, found {found or 'no ledger'}: an older "
            "one is upgraded when it is next used, a damaged one must be restored from a backup."
        )


def _check_chain(connection: Connection, store: LedgerStore, replay: _Replay) -> Iterator[str]:
    last: Entry | None = None
    for entry in all_entries(connection):
        found = replay.apply(entry)
        yield from _faults(entry, last, replay.public)
        if found:
            yield found
        last = entry
    if last is None:
        yield "there are no entries, not even the first"
        return
    yield from _check_key(store, replay.public)
    if replay.is_complete and totals(replay.connection) != last.totals:
        yield f"entry {last.position}: its totals are not those of the entries"


def _faults(entry: Entry, last: Entry | None, public: str) -> Iterator[str]:
    expected = 1 if last is None else last.position + 1
    if entry.position != expected:
        missing = (
            f"{expected} is" if entry.position == expected + 1 else f"{expected} to {entry.position - 1} are"
        )
        yield f"entry {missing} missing"
    elif entry.previous != (BEGINNING if last is None else last.digest):
        yield f"entry {entry.position}: does not follow from the entry before"
    if not entry.is_intact:
        yield f"entry {entry.position}: was edited after it was made"
    elif not entry.head(public).is_genuine:
        yield f"entry {entry.position}: is not signed by the ledger's key"


def _check_key(store: LedgerStore, public: str) -> Iterator[str]:
    try:
        if read_key(store.key_path).public != public:
            yield f"the key in {store.key_path} is not the one that the ledger began with"
    except LedgerError as error:
        yield f"the key cannot be used: {error}"


def _check_tables(connection: Connection, replay: _Replay) -> Iterator[str]:
    if not replay.is_complete:
        yield "the tables were not compared, since not all entries could be replayed"
        return
    for table in tables.PROJECTED:
        yield from _differences(table, connection, replay.connection)
    yield from _check_replies(connection)
    for spending in all_spending(replay.connection):
        if spending.held > spending.budget * (1 + TOLERANCE):
            yield f"block {spending.block}: more is held of it than its budget"


def _differences(table: Table, stored: Connection, replayed: Connection) -> Iterator[str]:
    """Compares a table with what the entries say of it, both in the order of their keys."""
    key = [column.name for column in table.primary_key]
    found, said = _rows(table, stored), _rows(table, replayed)
    row, wanted = next(found, None), next(said, None)
    while row is not None or wanted is not None:
        order = _compare(row, wanted, key)
        if order == 0 and row is not None and wanted is not None:
            if row != wanted:
                columns = [name for name in row._fields if getattr(row, name) != getattr(wanted, name)]
                yield f"{table.name} {_named(row, key)}: {', '.join(columns)} not as the entries say"
        elif order < 0:
            yield f"{table.name} {_named(row, key)}: not in the entries"
        else:
            yield f"{table.name} {_named(wanted, key)}: missing"
        if order <= 0:
            row = next(found, None)
        if order >= 0:
            wanted = next(said, None)


def _rows(table: Table, connection: Connection) -> Iterator[Row[Any]]:
    # As Python compares text, whatever the database's language.
    plain = {"sqlite": "BINARY"}.get(connection.dialect.name, "C")
    order = [
        column.collate(plain) if isinstance(column.type, String) else column for column in table.primary_key
    ]
    return iter(connection.execution_options(yield_per=1000).execute(select(table).order_by(*order)))


def _compare(row: Row[Any] | None, wanted: Row[Any] | None, key: Sequence[str]) -> int:
    if row is None or wanted is None:
        return -1 if wanted is None else 1
    first, second = ([getattr(each, name) for name in key] for each in (row, wanted))
    try:
        return (first > second) - (first < second)
    except TypeError:  # SQLite lets an editor store text among numbers
        return -1


def _named(row: Row[Any] | None, key: Sequence[str]) -> str:
    return "/".join(str(getattr(row, name)) for name in key)


def _check_replies(connection: Connection) -> Iterator[str]:
    key = [column.name for column in tables.replies.primary_key]
    same = and_(*(tables.replies.c[name] == tables.releases.c[name] for name in key))
    query = select(tables.replies, tables.releases.c.reply_digest).select_from(
        tables.replies.outerjoin(tables.releases, same)
    )
    for row in connection.execute(query):
        if row.reply_digest is None or sha256(bytes(row.reply)) != row.reply_digest:
            yield f"replies {_named(row, key)}: is not what was committed"


def keeps_heads(ledger: Path) -> bool:
    """Returns whether there is a ledger in a file, and it was ever shown the head of another."""
    if not ledger.exists():
        return False
    with open_for_reading(ledger) as connection:
        return connection.execute(select(tables.witnessed.c.name).limit(1)).first() is not None


def _check_heads(connection: Connection, public: str, heads: Iterable[SignedHead]) -> Iterator[str]:
    # What a gap has swallowed is known, and counts as spent.
    known = connection.execute(select(func.max(tables.gaps.c.head_position))).scalar() or 0
    for head in heads:
        if head.ledger != public or not head.is_genuine:
            yield f"the head of entry {head.position} that was shown is not signed by this ledger's key"
            continue
        entry = entry_at(connection, head.position)
        if head.position > known and (entry is None or entry.digest != head.digest):
            yield f"entry {head.position}: was signed with another content, or is lost"


def _check_witness(connection: Connection, public: str, witness: str | Path) -> Iterator[str]:
    w = tables.witnessed
    with open_for_reading(witness) as other:
        rows = other.execute(select(w).where(w.c.ledger == public).order_by(w.c.position)).all()
    if not rows:
        yield f"{ledger_name(witness)} has never been shown a head of this ledger"
    yield from dict.fromkeys(
        f"{finding} (kept by {ledger_name(witness)})"
        for finding in _check_heads(connection, public, [witnessed_head(row) for row in rows])
    )


def _gaps(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(tables.gaps).order_by(tables.gaps.c.position)):
        yield (
            f"gap found at {row.found_at}: what followed entry {row.head_position - 1} was once another; all "
            f"blocks from before entry {row.position} count as spent"
        )
