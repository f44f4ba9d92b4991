"""Waits for a command's outcome, on behalf of browsers that can't poll by themselves."""

import asyncio
from uuid import UUID

from services.groups.domain import CommandState
from services.groups.web import queries
from services.groups.web.context import WebContext

PATIENCE_S = 4.0
_POLL_S = 0.1


async def wait_for(context: WebContext, id_: UUID, actor_id: UUID) -> queries.Command | None:
    """Return a command once it has ended; None if it has not within `PATIENCE_S`, or is not the caller's."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_S
    while clock() < deadline:
        async with context.reading() as connection:
            command = await queries.command(connection, id_, actor_id)
        if command is None:
            return None
        if command.state is not CommandState.PENDING:
            return command
        await asyncio.sleep(_POLL_S)
    return None
