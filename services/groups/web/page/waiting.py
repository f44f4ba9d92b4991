"""Waits for commands' outcomes, on behalf of browsers that can't poll by themselves."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

from services.groups.domain import CommandState
from services.groups.web import queries
from services.groups.web.context import WebContext

PATIENCE_S = 4.0
_POLL_S = 0.1


async def wait_for(context: WebContext, id_: UUID, actor_id: UUID) -> queries.Command | None:
    """Return a command once it has ended; None if it has not within `PATIENCE_S`, or is not the caller's."""

    async def look() -> Mapping[UUID, queries.Command]:
        async with context.reading() as connection:
            return await queries.commands_of(connection, [id_], actor_id)

    command = (await settle(look)).get(id_)
    return None if command is None or command.state is CommandState.PENDING else command


async def settle(look: Callable[[], Awaitable[Mapping[UUID, queries.Command]]]) -> Mapping[UUID, queries.Command]:
    """Look at commands until all have ended, or for `PATIENCE_S`; return what they were then."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_S
    found = await look()
    while clock() < deadline and any(each.state is CommandState.PENDING for each in found.values()):
        await asyncio.sleep(_POLL_S)
        found = await look()
    return found
