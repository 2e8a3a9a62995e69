"""Alembic runs this for each command, on the connection and in the transaction of `migrate`."""

from alembic import context

from serving.jobs.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
