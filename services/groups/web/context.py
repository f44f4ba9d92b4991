"""What all routes share, of the API and of the page: callers, reads, and the posting of commands."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from popfax_contracts.message import Command
from services.groups.settings import WebSettings
from services.groups.web import posting
from services.groups.web.auth import Tokens
from services.groups.web.changes import Feed
from services.groups.web.keys import Keys
from services.groups.web.limits import Limits


@dataclass(frozen=True)
class WebContext:
    """One for each process."""

    engine: AsyncEngine
    settings: WebSettings
    tokens: Tokens
    feed: Feed
    limits: Limits
    committed: Callable[[], None]
    """Tells the relay of this process, if it has one, that there is something to publish."""

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Return a connection for reads, each statement for itself."""
        async with read_only(self.engine) as connection:
            yield connection

    async def post(self, command: Command, actor_id: UUID, id_: UUID) -> None:
        """Post a command; raises `posting.IdConflict`."""
        await self.post_all({id_: command}, actor_id)

    async def post_all(
        self, posted: Mapping[UUID, Command], actor_id: UUID, beside: Sequence[sa.Executable] = ()
    ) -> None:
        """Post commands by their ids, all or none, with what is written beside them; raises `posting.IdConflict`."""
        await posting.post_all(self.engine, posted, actor_id, beside)
        self.committed()


@asynccontextmanager
async def read_only(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Return a connection for reads, without a transaction to begin and to end around each."""
    async with engine.connect() as connection:
        yield await connection.execution_options(isolation_level="AUTOCOMMIT")


def web_context(engine: AsyncEngine, settings: WebSettings, committed: Callable[[], None] = lambda: None) -> WebContext:
    """Make one; nothing is connected, nor read, before it is used. The settings must name the platform's keys."""
    assert settings.jwt_jwks is not None, "without keys nobody can be told from anybody else"
    return WebContext(
        engine=engine,
        settings=settings,
        tokens=Tokens(
            Keys(settings.jwt_jwks, development=settings.jwt_development_keys),
            settings.jwt_audience,
            settings.jwt_issuer,
        ),
        feed=Feed(lambda: read_only(engine), settings.sse_connections, settings.sse_connections_person),
        limits=Limits(settings),
        committed=committed,
    )
