"""The tables as they were without a chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = None


def upgrade() -> None:
    """Makes an empty ledger of format 2."""
    info = op.create_table("info", _text("key", primary_key=True), _text("value"))
    op.create_table("divisions", _text("client", primary_key=True), _text("division"))
    op.create_table(
        "blocks",
        _text("block", primary_key=True),
        *map(_text, ("client", "span", "split", "privacy_unit", "neighboring_relation")),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("epsilon", "delta")),
        sa.Column("renyi_order", sa.Integer, nullable=False),
        sa.Column("renyi_budget", sa.Float, nullable=False),
        _text("created_at"),
    )
    op.create_table(
        "claims",
        _text("claim", primary_key=True),
        *map(_text, ("run_id", "client", "terms_digest", "terms", "state", "created_at")),
    )
    op.create_table(
        "reservations",
        *(_text(name, primary_key=True) for name in ("claim", "block", "query")),
        _text("step"),
        _text("event"),
        sa.Column("divergence", sa.Float, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("planned", "committed")),
    )
    op.create_table(
        "releases",
        *(_text(name, primary_key=True) for name in ("claim", "step")),
        *(sa.Column(name, sa.Integer, primary_key=True) for name in ("server_round", "attempt")),
        _text("request_digest"),
        sa.Column("reply", sa.LargeBinary, nullable=True),
        _text("committed_at"),
    )
    op.bulk_insert(info, [{"key": "format_version", "value": "2"}])


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=primary_key, nullable=False)
