"""Heads that are shown: of other ledgers, kept as evidence; and our own, which must be in our chain."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, func, select, true

from fedpipe.errors import LedgerError
from fedpipe.ledger import tables
from fedpipe.ledger.chain import Chain, entry_at
from fedpipe.ledger.entries import GapFound, HeadWitnessed, SignedHead


def witness_head(chain: Chain, name: str, head: SignedHead) -> None:
    """Keeps the newest head of the ledger of `name`; see `Ledger.witness`."""
    if not head.is_genuine:
        raise LedgerError(f"Expected a head that the ledger of {name} signed, found another signature.")
    newest = newest_heads(chain.connection, name).get(name)
    if newest is not None and newest.ledger != head.ledger:
        raise LedgerError(
            f"Expected the ledger that {name} has shown before, found another key: ask {name} whether it "
            "began a new ledger, which forgets what was spent."
        )
    w = tables.witnessed
    same = select(w.c.digest).where(w.c.name == name, w.c.position == head.position)
    if chain.connection.execute(same).scalar() not in (None, head.digest):
        raise LedgerError(
            f"Expected the entry that {name} showed at {head.position} before, found another: "
            "that ledger was changed afterwards, or forked."
        )
    if newest is None or head.position > newest.position:
        chain.append(HeadWitnessed(name=name, head=head))


def newest_heads(connection: Connection, name: str | None = None) -> dict[str, SignedHead]:
    """Returns the newest witnessed head of each name, or of `name` alone."""
    w = tables.witnessed
    wanted = true() if name is None else w.c.name == name
    newest = (
        select(w.c.name, func.max(w.c.position).label("position")).where(wanted).group_by(w.c.name).subquery()
    )
    query = select(w).join(newest, (w.c.name == newest.c.name) & (w.c.position == newest.c.position))
    return {row.name: witnessed_head(row) for row in connection.execute(query)}


def witnessed_head(row: Row[Any]) -> SignedHead:
    """Returns the head in a row of the table of witnessed heads."""
    return SignedHead(ledger=row.ledger, position=row.position, digest=row.digest, signature=row.signature)


def meet_head(chain: Chain, ledger: str, head: SignedHead) -> LedgerError | None:
    """Returns what is wrong with a head of our own, after a gap that it proves was written down.

    A gap that is known already is nothing new.
    """
    if head.ledger != ledger or not head.is_genuine:
        raise LedgerError("Expected a head that this ledger signed, found another's: it proves nothing.")
    entry = entry_at(chain.connection, head.position)
    if entry is not None and entry.digest == head.digest:
        return None
    g = tables.gaps
    known = select(g.c.position).where(g.c.head_position == head.position, g.c.head_digest == head.digest)
    if chain.connection.execute(known).first() is not None:
        return None
    chain.append(GapFound(head=head))
    return LedgerError(
        f"Expected every head that this ledger signed in its chain, found one of entry {head.position} that "
        "is not: it was restored from an older backup, or copied. What was spent since is not known, so "
        "everything that it knows now counts as spent; spans that begin later can be claimed."
    )
