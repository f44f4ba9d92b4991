"""Alembic, once for all services: each has its own versions, in `services/<name>/migrations/`.

Migrations are applied by a command (`python -m services._platform.migrate ledger`), never by starting a service.
"""

import sys
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.topics import Principal
from services._platform.settings import ServiceSettings, load_settings

_HERE = Path(__file__).parent


def config(principal: Principal, url: str) -> Config:
    """Make Alembic's configuration for one service."""
    made = Config()
    made.set_main_option("script_location", str(_HERE / "migrations"))
    made.set_main_option("version_locations", str(_HERE.parent / principal.value / "migrations"))
    made.set_main_option("path_separator", "os")
    made.attributes["url"] = url
    return made


def upgrade(principal: Principal, url: str) -> None:
    """Bring a service's database to this version's state. Does nothing where it is there already."""
    command.upgrade(config(principal, url), "head")


async def at_head(principal: Principal, engine: AsyncEngine) -> bool:
    """Say whether a database has this version's migrations."""
    async with engine.connect() as connection:
        return await connection.run_sync(_revision) == _head(principal)


@cache
def _head(principal: Principal) -> str | None:
    """Give this version's newest migration; readiness asks every few seconds, and the files stay as they are."""
    return ScriptDirectory.from_config(config(principal, "")).get_current_head()


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        upgrade(Principal(name), load_settings(ServiceSettings, Principal(name)).database_url.get_secret_value())
