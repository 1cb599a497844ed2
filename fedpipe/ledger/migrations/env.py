"""Runs a migration in the transaction that `fedpipe.ledger.migration` opened, which holds the ledger's lock."""

from alembic import context

from fedpipe.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
