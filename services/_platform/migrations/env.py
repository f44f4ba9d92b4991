"""Alembic's environment: it runs a service's migrations on the URL that it was given, all in one transaction."""

import sqlalchemy as sa
from alembic import context

from services._platform.postgres import sessions

engine = sa.create_engine(context.config.attributes["url"], hide_parameters=True, connect_args=sessions())
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        # Two replicas' deployments at the same moment: one waits for the other, and finds nothing left to do.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(7102838)"))
        context.run_migrations()
    connection.commit()
engine.dispose()
