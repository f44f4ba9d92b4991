"""Sessions of the page. A token of the platform's begins one and is spent; logging out ends it, on all replicas.

The visitor holds a secret, and the database a hash of it. A row stays as long as its token would be valid. Closing the
account ends all of its holder's sessions.
"""

from base64 import urlsafe_b64encode
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from secrets import token_urlsafe
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.tables import Bytes
from services.groups.domain import AccountState
from services.groups.tables import sessions, subscribers
from services.groups.web.auth import LEEWAY_S, Caller, fingerprint

LONGEST = timedelta(hours=12)
"""How long a session lasts at most, however long its token would be valid."""


class TokenSpent(Exception):
    """A session was begun with this token already."""


async def begin(engine: AsyncEngine, token: str, caller: Caller) -> tuple[str, Caller]:
    """Begin a session with the caller's token; return the visitor's secret, and the caller. Raises `TokenSpent`."""
    secret, now = f"{token_urlsafe(32)}.{mark_of(caller.id)}", datetime.now(UTC)
    until = min(caller.until, now + LONGEST)
    row = {
        "id": _hash(secret),
        "token": fingerprint(token),
        "subscriber_id": caller.id,
        "begun_at": now,
        "until": until,
        "forget_at": caller.until + timedelta(seconds=LEEWAY_S),
    }
    new = insert(sessions).values(row).on_conflict_do_nothing(index_elements=["token"]).returning(sessions.c.id)
    async with engine.begin() as connection:
        if (await connection.execute(new)).one_or_none() is None:
            raise TokenSpent
    return secret, replace(caller, until=until, session=_hash(secret))


async def caller(connection: AsyncConnection, secret: str) -> Caller | None:
    """Return whose session it is; None if it is over."""
    query = sa.select(sessions.c.subscriber_id, sessions.c.until).where(sessions.c.id == _hash(secret), *_GOES_ON)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Caller(row.subscriber_id, row.until, _hash(secret))


async def is_spent(connection: AsyncConnection, token: str) -> bool:
    """Return whether a session was begun with a token."""
    query = sa.select(sa.exists().where(sessions.c.token == fingerprint(token)))
    return bool((await connection.execute(query)).scalar_one())


async def end(engine: AsyncEngine, secret: str) -> None:
    """End a session."""
    ended = sa.update(sessions).where(sessions.c.id == _hash(secret), *_GOES_ON).values(ended_at=sa.func.now())
    async with engine.begin() as connection:
        await connection.execute(ended)


async def going_on(connection: AsyncConnection, ids: Collection[bytes]) -> set[bytes]:
    """Return those of these sessions that are not over."""
    wanted = sa.bindparam("ids", list(ids), type_=ARRAY(Bytes()))
    query = sa.select(sessions.c.id).where(sessions.c.id == sa.any_(wanted), *_GOES_ON)
    return set((await connection.execute(query)).scalars())


_OF_CLOSED_ACCOUNT = sa.exists().where(
    subscribers.c.id == sessions.c.subscriber_id, subscribers.c.state == AccountState.CLOSED.value
)
_GOES_ON = (sessions.c.ended_at.is_(None), sessions.c.until > sa.func.now(), ~_OF_CLOSED_ACCOUNT)


def mark_of(subscriber_id: UUID) -> str:
    """Return what the secrets of somebody's sessions end with: whose it was can be told when a session is over."""
    return urlsafe_b64encode(sha256(b"popfax visitor\0" + subscriber_id.bytes).digest()[:12]).decode()


def mark_in(secret: str) -> str:
    """Return whose session a secret opened: a mark, empty if there is none."""
    return secret.rpartition(".")[2] if "." in secret else ""


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
