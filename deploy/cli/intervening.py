"""How an operator's message reaches a running service: as a timer that is due now, in the service's own database."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

from contracts.message import Message
from contracts.topics import Principal
from deploy.cli.connection import Connection
from deploy.cli.errors import Unreachable
from services._platform.database import Conflict, Outage
from services._platform.messages import Incoming, SetTimer, StoredRecord
from services._platform.postgres import PostgresDatabase, engine

POLL_S = 0.1
"""How often to look whether it was taken up."""


def hand_over(
    connection: Connection, service: Principal, message: Message, correlation_id: str, actor: UUID | None = None
) -> None:
    """Put an operator's message among a service's timers: it takes it up when it runs. Raises Unreachable."""
    asyncio.run(_set_timer(connection.database_url(service), service, message, correlation_id, actor))


async def _set_timer(url: str, service: Principal, message: Message, correlation_id: str, actor: UUID | None) -> None:
    """Set a timer as a handler would. It has an id of its own: another, such as a saga's, is its deadline's."""
    record = StoredRecord(uuid4(), None, "operator", 0, 0, None, None, ())
    cause = Incoming[Message](record.row_id, message, record, correlation_id, actor)
    connected = engine(url, pool_size=1)
    try:
        async with PostgresDatabase(connected).begin() as tx:
            await tx.set_timers([(SetTimer(uuid4(), datetime.now(UTC), message), cause)])
    except (Outage, Conflict) as error:
        raise Unreachable(f"{service}'s database did not take it: {error}") from error
    finally:
        await connected.dispose()
