"""The chain of entries in an open transaction: its end must agree with the tables, and can be appended to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, Row, insert, select

from fedpipe.errors import LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import tables
from fedpipe.ledger.entries import BEGINNING, Body, Entry, SignedHead, entry_digest
from fedpipe.ledger.projection import advance, project, totals
from fedpipe.signing import SigningKey

PAGE = 500  # entries in memory at once


class Chain:
    """The entries of a ledger, while a transaction holds its lock.

    `verified` is the digest of an entry that was verified before, or `BEGINNING` for a ledger that is made.

    Raises:
      LedgerError: the newest entry, its signature and the tables' totals do not agree: somebody edited the
        ledger, or it is not that of `key`.
    """

    def __init__(
        self, connection: Connection, key: SigningKey, now: Callable[[], str], *, verified: str | None = None
    ) -> None:
        self.connection = connection
        self._key = key
        self._now = now
        self.newest = newest_entry(connection)
        if self.last_digest != verified:
            check_end(connection, self.end, key.public)

    @property
    def last_digest(self) -> str:
        """The newest entry's digest, or `BEGINNING`."""
        return self.newest.digest if self.newest else BEGINNING

    @property
    def end(self) -> Entry:
        """The newest entry.

        Raises:
          LedgerError: there is none.
        """
        if self.newest is None:
            raise LedgerError(
                "Expected a ledger's entries, found none: see `fedpipe budget check`, and restore it from "
                "a backup."
            )
        return self.newest

    def append(self, body: Body, made_at: str | None = None) -> Entry:
        """Returns the entry that now says `body`, with the tables as it says."""
        position = self.newest.position + 1 if self.newest else 1
        made_at = made_at or self._now()
        content = {
            "kind": body.kind,
            "text": canonical_json(body.model_dump(mode="json")),
            "totals": self._project(body, position, made_at),
            "made_at": made_at,
            "previous": self.last_digest,
        }
        digest = entry_digest(position=position, **content)
        signature = SignedHead.sign(self._key, position, digest).signature
        entry = Entry(position=position, **content, digest=digest, signature=signature)
        self.connection.execute(
            insert(tables.entries).values(position=position, **content, digest=digest, signature=signature)
        )
        self.newest = entry
        return entry

    def _project(self, body: Body, position: int, made_at: str) -> str:
        """Makes the tables say what `body` says, and returns their totals then."""
        if self.newest is not None:
            before = self.newest.totals
            return advance(self.connection, body, position=position, made_at=made_at, before=before)
        project(self.connection, body, position=position, made_at=made_at)
        return totals(self.connection)


def check_end(connection: Connection, newest: Entry, public: str) -> None:
    """Checks that the key `public` signed the newest entry, and that the tables hold what it states.

    Raises:
      LedgerError: they do not agree.
    """
    if not newest.is_intact or not newest.head(public).is_genuine:
        raise LedgerError(
            f"Expected a newest entry that this ledger's key signed, found entry {newest.position} "
            "edited, or signed by another: see `fedpipe budget check`, and restore ledger and key from a "
            "backup."
        )
    found = totals(connection)
    if found != newest.totals:
        raise LedgerError(
            f"Expected the totals {newest.totals} of the newest entry, found {found} in the tables: "
            "see `fedpipe budget check`, and restore the ledger from a backup."
        )


def newest_entry(connection: Connection) -> Entry | None:
    """Returns the entry at the end of the chain."""
    query = select(tables.entries).order_by(tables.entries.c.position.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else _entry(row)


def entry_at(connection: Connection, position: int) -> Entry | None:
    """Returns the entry at `position`."""
    row = connection.execute(
        select(tables.entries).where(tables.entries.c.position == position)
    ).one_or_none()
    return None if row is None else _entry(row)


def page_after(connection: Connection, position: int) -> list[Entry]:
    """Returns the next entries after `position`, in order; none at the end."""
    e = tables.entries
    query = select(e).where(e.c.position > position).order_by(e.c.position).limit(PAGE)
    return [_entry(row) for row in connection.execute(query)]


def all_entries(connection: Connection) -> Iterator[Entry]:
    """Returns all entries in order, a page at a time."""
    page = page_after(connection, 0)
    while page:
        yield from page
        page = page_after(connection, page[-1].position)


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(**row._mapping)
