"""The tables of a ledger, and how its file is opened."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from fedpipe.errors import LedgerError
from fedpipe.files import make_private_directory, sync_directory

FORMAT_VERSION = "2"
BUSY_SECONDS = 30.0

metadata = MetaData()

info = Table("info", metadata, Column("key", String, primary_key=True), Column("value", Text, nullable=False))

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
    Column("block", String, primary_key=True),
    Column("client", String, nullable=False, index=True),
    Column("span", String, nullable=False),
    Column("split", String, nullable=False),
    Column("privacy_unit", String, nullable=False),
    Column("neighboring_relation", String, nullable=False),
    Column("epsilon", Float, nullable=False),
    Column("delta", Float, nullable=False),
    Column("renyi_order", Integer, nullable=False),
    Column("renyi_budget", Float, nullable=False),
    Column("created_at", String, nullable=False),
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
    Column("created_at", String, nullable=False),
)

# What a claim may spend on a block by one query: `planned` releases of `event`, each costing
# `divergence` at the block's order, of which `committed` were made.
reservations = Table(
    "reservations",
    metadata,
    Column("claim", String, ForeignKey("claims.claim"), primary_key=True),
    Column("block", String, ForeignKey("blocks.block"), primary_key=True, index=True),
    Column("query", String, primary_key=True),
    Column("step", String, nullable=False),
    Column("event", Text, nullable=False),
    Column("divergence", Float, nullable=False),
    Column("planned", Integer, nullable=False),
    Column("committed", Integer, nullable=False),
)

# What left a client. `reply` is dropped once the run has moved past its round.
releases = Table(
    "releases",
    metadata,
    Column("claim", String, ForeignKey("claims.claim"), primary_key=True),
    Column("step", String, primary_key=True),
    Column("server_round", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("request_digest", String, nullable=False),
    Column("reply", LargeBinary, nullable=True),
    Column("committed_at", String, nullable=False),
)


def open_engine(path: Path) -> Engine:
    """Returns an engine on the ledger at `path`, made (mode 600) if there is none. Commits are durable."""
    if not path.exists():
        _create(path)
    return _engine(path)


def check_format(connection: Connection) -> None:
    """Raises LedgerError if the file is empty, another program's, or of another format."""
    found = "no ledger"
    try:
        query = select(info.c.value).where(info.c.key == "format_version")
        found = str(connection.execute(query).scalar())
    except OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
    if found != FORMAT_VERSION:
        raise LedgerError(
            f"Expected a ledger of format {FORMAT_VERSION}, found {found}: restore it from a backup, or use "
            "the fedpipe version that wrote it. A new ledger would forget what was spent."
        )


def _create(path: Path) -> None:
    """Makes an empty ledger appear at `path` complete, unless another process was faster."""
    make_private_directory(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
        draft = Path(directory) / path.name
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        engine = _engine(draft)
        with engine.begin() as transaction:
            metadata.create_all(transaction)
            transaction.execute(insert(info).values(key="format_version", value=FORMAT_VERSION))
        # Last, and it stays with the file: with a log, a full disk could keep the tables out of the file
        # itself, which alone is linked.
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        with suppress(FileExistsError):
            os.link(draft, path)
    sync_directory(path.parent)


@lru_cache(maxsize=64)
def _engine(path: Path) -> Engine:
    """Returns the process's engine for `path`. It keeps compiled statements and no open file."""
    # Parameters hold replies and terms, which belong in no error message.
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_SECONDS},
        hide_parameters=True,
        poolclass=NullPool,
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _configure(connection: Any, _record: Any) -> None:
    # Our own BEGIN IMMEDIATE: admission reads and writes under one lock, so that two
    # coordinators cannot both see the last of a budget as free.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
