"""Upgrades a ledger of an older format, in one transaction: it ends complete, or has not begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, update

from fedpipe.ledger import tables
from fedpipe.ledger.chain import Chain
from fedpipe.ledger.entries import BEGINNING, LedgerMade
from fedpipe.signing import SigningKey

UPGRADABLE = ("2",)


def upgrade(connection: Connection, key: SigningKey, now: Callable[[], str], *, found: str) -> None:
    """Makes the ledger of format `found` one of the present format, signed by `key`."""

    def chain() -> Chain:
        made = Chain(connection, key, now, verified=BEGINNING)
        made.append(LedgerMade(public_key=key.public, upgraded_from=found))
        return made

    config = alembic_config(connection)
    config.attributes["chain"] = chain
    command.stamp(config, found)
    command.upgrade(config, tables.FORMAT_VERSION)
    version = update(tables.info).where(tables.info.c.key == "format_version")
    connection.execute(version.values(value=tables.FORMAT_VERSION))


def alembic_config(connection: Connection) -> Config:
    """Returns Alembic's configuration for the migrations in this package, on an open transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config
