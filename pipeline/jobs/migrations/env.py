"""What Alembic runs to migrate: on the connection, and in the transaction, that ``upgrade`` hands it."""

from alembic import context

from pipeline.jobs.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
