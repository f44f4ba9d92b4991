"""Alembic's environment: it runs a service's migrations on the URL that it was given, each in a transaction of its own.

A change of a table waits for whoever uses it, and all who come after wait behind the change. So it waits for a short
time only, gives way, and tries again: traffic flows in between.
"""

import time

import sqlalchemy as sa
from alembic import context

from services.chassis import migrate

_ADVISORY_LOCK = 7102838
_ASK_AGAIN_S = 0.2
_LOCK_NOT_AVAILABLE = "55P03"


def _online() -> None:
    engine = sa.create_engine(context.config.attributes["url"], hide_parameters=True, poolclass=sa.NullPool)
    with engine.connect() as connection:
        _wait_for_others(connection)
        connection.execute(sa.text(f"SET lock_timeout = '{migrate.LOCK_TIMEOUT_S}s'"))
        connection.commit()
        for attempt in range(1, migrate.LOCK_ATTEMPTS + 1):
            try:
                _run(connection)
                return
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                connection.rollback()
                if attempt == migrate.LOCK_ATTEMPTS:
                    raise migrate.LockedError(str(error.orig).splitlines()[0]) from error
            migrate.log.warning("migration_waits", attempt=attempt, of=migrate.LOCK_ATTEMPTS)
            time.sleep(migrate.LOCK_PAUSE_S)


def _wait_for_others(connection: sa.Connection) -> None:
    """Wait for other deployments that migrate at this moment; then there is nothing left to do.

    By asking again and again: whoever waited within a statement would have a transaction open, for whose end an index
    that is built concurrently waits, and that would be a deadlock.
    """
    while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_ADVISORY_LOCK))):
        connection.rollback()
        time.sleep(_ASK_AGAIN_S)


def _run(connection: sa.Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, on_version_apply=migrate.note_support)
    with context.begin_transaction():
        context.run_migrations()


def _offline() -> None:
    """Write the SQL, for those who want to see it first: the check of what it would lock does."""
    context.configure(
        dialect_name="postgresql", output_buffer=context.config.output_buffer, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


_offline() if context.is_offline_mode() else _online()
