"""Run by alembic: migrates the connection that `center.database` hands over, inside its transaction."""

from alembic import context

from center.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
