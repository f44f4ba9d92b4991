"""Alembic, once for all services: each has its own versions, in `services/<name>/migrations/`.

Migrations are applied by a command (`python -m services.chassis.migrate ledger`), never by starting a service. They
expand first and contract later, so that the previous version's code works on the new schema while it is being
replaced, and after a rollback to it. A migration states what other versions have to know about it:

- `compatible_from`: the oldest revision whose code still works on the schema that it leaves. By default, only its own.
- `needed = False`: its own version's code works without it too (an index, or a column for the next version).

The first is kept in the database (`schema_support`), since an older version can't read a newer one's files.
"""

import sys
from dataclasses import dataclass
from functools import cache, partial
from io import StringIO
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popfax_contracts.topics import Principal
from services.chassis.settings import DatabaseSettings, load_settings

log = structlog.get_logger(__name__)

LOCK_TIMEOUT_S = 3
LOCK_ATTEMPTS = 60
LOCK_PAUSE_S = 2.0
"""How long a migration waits for a lock, how often, and the pause between: five minutes in all, while traffic flows."""

_HERE = Path(__file__).parent
_SUPPORT = sa.table("schema_support", sa.column("revision"), sa.column("oldest"))


class LockedError(Exception):
    """A table stayed locked throughout a migration's attempts."""


@dataclass(frozen=True, slots=True)
class Known:
    """The revisions of a service, as far as this version knows them."""

    head: str
    all: frozenset[str]
    enough: frozenset[str]
    """The revisions that its code works on: its newest, and older ones that lack only what it does not need."""

    def suits(self, revision: str | None, oldest: str | None) -> bool:
        """Say whether this version's code works on a database at a revision that supports others from `oldest` on."""
        if revision in self.all or revision is None:
            return revision in self.enough
        return oldest in self.all  # a newer version's: it must still support us


def config(principal: Principal, url: str) -> Config:
    """Return Alembic's configuration for one service."""
    made = Config()
    made.set_main_option("script_location", str(_HERE / "migrations"))
    made.set_main_option("version_locations", str(_HERE.parent / principal.value / "migrations"))
    made.set_main_option("path_separator", "os")
    made.attributes["url"] = url
    return made


def upgrade(principal: Principal, url: str) -> None:
    """Migrate a service's database to this version. Does nothing if it is already there, or newer."""
    if _is_newer(principal, url):
        log.warning("not_migrated", service=principal.value, reason="a newer version has migrated it already")
        return
    command.upgrade(config(principal, url), "head")


def sql(principal: Principal, revision: str) -> str:
    """Return one migration as SQL, without a database. Raises whatever the migration raises if it needs data."""
    script = ScriptDirectory.from_config(config(principal, "")).get_revision(revision)
    before = script.down_revision or "base"
    written = StringIO()
    offline = config(principal, "")
    offline.output_buffer = written
    command.upgrade(offline, f"{before}:{revision}", sql=True)
    return written.getvalue()


def revisions(principal: Principal) -> list[Any]:
    """Return a service's migrations as Alembic's scripts, oldest first."""
    return list(ScriptDirectory.from_config(config(principal, "")).walk_revisions())[::-1]


@cache
def known(principal: Principal) -> Known:
    """Read the migrations' files, once."""
    newest_first = revisions(principal)[::-1]
    enough = set()
    for script in newest_first:
        enough.add(script.revision)
        if getattr(script.module, "needed", True):
            break
    return Known(newest_first[0].revision, frozenset(s.revision for s in newest_first), frozenset(enough))


async def suits(principal: Principal, connection: AsyncConnection) -> bool:
    """Say whether this version's code works on a database."""
    found = await connection.run_sync(partial(state, principal))
    return known(principal).suits(found.revision, found.oldest)


async def trouble(principal: Principal, engine: AsyncEngine) -> str | None:
    """Say why this version can't work on a database; None if it can. Raises SQLAlchemy's errors."""
    async with engine.connect() as connection:
        found = await connection.run_sync(partial(state, principal))
        if not known(principal).suits(found.revision, found.oldest):
            return f"it is at {found.revision}, and this version is made for {known(principal).head}"
        return "it is read-only" if found.read_only else None


@dataclass(frozen=True, slots=True)
class State:
    """What a database says of its schema."""

    revision: str | None
    oldest: str | None
    """The oldest revision whose code works on it, if we don't know its own."""
    read_only: bool


def state(principal: Principal, connection: sa.Connection) -> State:
    """Read a database's state."""
    revision = _revision(connection)
    is_known = revision is None or revision in known(principal).all
    oldest = None if is_known else connection.execute(_oldest(revision or "")).scalar()
    read_only = connection.execute(sa.text("SHOW transaction_read_only")).scalar()
    return State(revision, oldest, read_only == "on")


def note_support(ctx: MigrationContext, step: MigrationInfo, **_: Any) -> None:
    """Record the oldest version whose code works on the schema that was just reached."""
    script: Any = step.up_revision
    if ctx.connection is None or script is None or not sa.inspect(ctx.connection).has_table(_SUPPORT.name):
        return  # it is older than the table
    oldest = getattr(script.module, "compatible_from", script.revision)
    ctx.connection.execute(sa.insert(_SUPPORT).values(revision=script.revision, oldest=oldest))


def _is_newer(principal: Principal, url: str) -> bool:
    engine = sa.create_engine(url, hide_parameters=True)
    try:
        with engine.connect() as connection:
            revision = _revision(connection)
            if revision is None or revision in known(principal).all:
                return False
            return connection.execute(_oldest(revision)).scalar() in known(principal).all
    finally:
        engine.dispose()


def _oldest(revision: str) -> "sa.Select[Any]":
    return sa.select(_SUPPORT.c.oldest).where(_SUPPORT.c.revision == revision)


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        upgrade(Principal(name), load_settings(DatabaseSettings, Principal(name)).database_url.get_secret_value())
