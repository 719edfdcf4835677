"""Run by Alembic for each command. ``illustrious.database`` gives the connection and owns its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
