"""Environment of Alembic: the connection comes from `Database.migrate`, and the version has a table of the ledger's."""

from __future__ import annotations

from alembic import context

from tokentrace.ledger.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="ledger_version",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
