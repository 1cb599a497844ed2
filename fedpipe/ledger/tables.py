"""The tables of a ledger. The entries are the truth; all other tables but the replies follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    select,
)
from sqlalchemy.exc import OperationalError, ProgrammingError

FORMAT_VERSION = "3"
MOST_NAMES = 500  # in one statement: SQLite refuses more than 999 parameters

metadata = MetaData()

info = Table("info", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

entries = Table(
    "entries",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("totals", Text, nullable=False),
    Column("made_at", String, nullable=False),
    Column("previous", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("signature", String, nullable=False),
)

# What decides which block a client's record falls into, fixed by its first claim: if a later run could divide
# the records in another way, a record would meet a fresh budget in its new block.
divisions = Table(
    "divisions",
    metadata,
    Column("client", String, primary_key=True),
    Column("division", Text, nullable=False),
)

blocks = Table(
    "blocks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("block", String, nullable=False, unique=True),
    Column("client", String, nullable=False),
    Column("span", String, nullable=False),
    Column("split", String, nullable=False),
    Column("privacy_unit", String, nullable=False),
    Column("neighboring_relation", String, nullable=False),
    Column("epsilon", Float, nullable=False),
    Column("delta", Float, nullable=False),
    Column("reserved_delta", Float, nullable=False),
    Column("renyi_order", Integer, nullable=False),
    Column("renyi_budget", Float, nullable=False),
    Column("position", Integer, nullable=False),
    Column("created_at", String, nullable=False),
    Index("blocks_of_client", "client", "span"),
)

# A claim is one client's part of one run; `terms` is what the client agreed to.
claims = Table(
    "claims",
    metadata,
    Column("claim", String, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("client", String, nullable=False),
    Column("terms_digest", String, nullable=False),
    Column("terms", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("created_at", String, nullable=False),
)

# `planned` releases of `event`, of which `committed` were made; `counted` is what counts as spent: all that
# is planned while the claim is open, then what was committed.
queries = Table(
    "queries",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("claim", String, ForeignKey("claims.claim"), nullable=False),
    Column("query", String, nullable=False),
    Column("step", String, nullable=False),
    Column("event", Text, nullable=False),
    Column("planned", Integer, nullable=False),
    Column("committed", Integer, nullable=False),
    Column("counted", Integer, nullable=False),
    UniqueConstraint("claim", "query"),
)

# What one release of a query costs a block, at the block's order.
reservations = Table(
    "reservations",
    metadata,
    Column("block", Integer, ForeignKey("blocks.id"), primary_key=True, autoincrement=False),
    Column("query", Integer, ForeignKey("queries.id"), primary_key=True, autoincrement=False),
    Column("divergence", Float, nullable=False),
    Index("reservations_of_query", "query"),
    sqlite_with_rowid=False,
)

# What left a client.
releases = Table(
    "releases",
    metadata,
    Column("claim", String, ForeignKey("claims.claim"), primary_key=True),
    Column("step", String, primary_key=True),
    Column("server_round", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("request_digest", String, nullable=False),
    Column("reply_digest", String, nullable=False),
    Column("committed_at", String, nullable=False),
)

# The bytes that left, kept until the run has moved past their round.
replies = Table(
    "replies",
    metadata,
    Column("claim", String, primary_key=True),
    Column("step", String, primary_key=True),
    Column("server_round", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("reply", LargeBinary, nullable=False),
)

# Other ledgers' heads, as they were shown.
witnessed = Table(
    "witnessed",
    metadata,
    Column("name", String, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("ledger", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("signature", String, nullable=False),
)

# Where this ledger was found to be older than a head that it had signed.
gaps = Table(
    "gaps",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("head_position", Integer, nullable=False),
    Column("head_digest", String, nullable=False),
    Column("found_at", String, nullable=False),
)

PROJECTED = (divisions, blocks, claims, queries, reservations, releases, witnessed, gaps)
"""What follows from the entries, in an order in which rows can be inserted."""


def rows_among(
    connection: Connection, query: Select[Any], column: ColumnElement[str], names: Sequence[str]
) -> Iterator[Any]:
    """Yields the rows of `query` whose `column` is one of `names`, in as many statements as these take."""
    for start in range(0, len(names), MOST_NAMES):
        yield from connection.execute(query.where(column.in_(names[start : start + MOST_NAMES])))


def read_format(connection: Connection) -> str | None:
    """Returns the format of the ledger, None if there is none."""
    try:
        query = select(info.c.value).where(info.c.key == "format_version")
        found = connection.execute(query).scalar()
    except (OperationalError, ProgrammingError) as error:
        if type(error.orig).__name__ == "UndefinedTable" or "no such table" in str(error.orig):
            return None
        raise
    return None if found is None else str(found)
