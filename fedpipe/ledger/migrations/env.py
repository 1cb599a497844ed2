"""Runs a migration in the transaction of `fedpipe.ledger.migration`, which holds the ledger's lock."""

from alembic import context

from fedpipe.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
