# SPDX-License-Identifier: Apache-2.0
"""Run by Alembic: migrate over the caller's connection, in its transaction."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
