"""How an operator's message reaches a running service: as a timer that is due now, in the service's own database.

Also how commands find what the message is about, and wait for its effect.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import sqlalchemy as sa

from deploy.operator.cli.connection import APPLICATION, Connection
from deploy.operator.cli.errors import Failure, Unreachable, UsageError
from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis.database import Conflict, Outage
from services.chassis.messages import Incoming, SetTimer, StoredRecord
from services.chassis.postgres import PostgresDatabase, engine

POLL_S = 0.1
"""How often to check whether the service has acted on it, in seconds."""

T = TypeVar("T")


def begins(column: sa.ColumnElement[Any], id_: str) -> sa.ColumnElement[bool]:
    """Match the ids that begin with `id_`. Raises UsageError if no id can begin with it."""
    if not id_ or set(id_.lower()) - set("0123456789abcdef-"):
        raise UsageError(f"{id_!r} is no id")
    return sa.cast(column, sa.Text).startswith(id_.lower(), autoescape=True)


def the_one(found: Sequence[T], what: str, id_: str) -> T:
    """Return the only element. Raises Failure if there is none, UsageError if there are several."""
    if not found:
        raise Failure(f"there is no {what} {id_}")
    if len(found) > 1:
        raise UsageError(f"several {what}s begin with {id_}: type more of it")
    return found[0]


def wait_for(look: Callable[[], T], moved: Callable[[T], bool], timeout_s: float) -> T:
    """Call `look` until its result has `moved` or `timeout_s` seconds are over; return the last result."""
    deadline = time.monotonic() + timeout_s
    while not moved(seen := look()) and time.monotonic() <= deadline:
        time.sleep(POLL_S)
    return seen


def hand_over(
    connection: Connection, service: Principal, message: Message, correlation_id: str, actor: UUID | None = None
) -> None:
    """Set an operator's message as a timer of a service, which handles it when it runs. Raises Unreachable."""
    asyncio.run(_set_timer(connection.database_url(service), service, message, correlation_id, actor))


async def _set_timer(url: str, service: Principal, message: Message, correlation_id: str, actor: UUID | None) -> None:
    """Set a timer as a handler would, under a new id: the saga's own id is its deadline's."""
    record = StoredRecord(uuid4(), None, "operator", 0, 0, None, None, ())
    cause = Incoming[Message](record.row_id, message, record, correlation_id, actor)
    connected = engine(url, pool_size=1, application_name=APPLICATION)
    try:
        async with PostgresDatabase(connected).begin() as tx:
            await tx.set_timers([(SetTimer(uuid4(), datetime.now(UTC), message), cause)])
    except (Outage, Conflict) as error:
        raise Unreachable(f"{service}'s database did not take it: {error}") from error
    finally:
        await connected.dispose()
