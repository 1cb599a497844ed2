"""How ledgers of older formats become ledgers of this one; Alembic finds its way through the versions."""
