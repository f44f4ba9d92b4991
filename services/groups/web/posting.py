"""Posting commands: into the outbox, together with a row that keeps the outcome, in one transaction."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.ids import derive_own
from popfax_contracts.message import Command, group_of
from services.chassis.messages import Outgoing
from services.chassis.postgres import PostgresDatabase
from services.chassis.tracing import tracing
from services.groups.commands import POSTABLE, content_hash
from services.groups.domain import CommandState
from services.groups.tables import commands

_OF_NO_OWN_GROUP = frozenset({"LeaveGroup"})


class IdConflict(Exception):
    """The id, or the idempotency key, was used for another command."""


def is_about_own_group(model: type[Command]) -> bool:
    """Return whether a command is always about the actor's own group, which then needs no naming."""
    return model.KEY == "group_id" and model.__name__ not in _OF_NO_OWN_GROUP


def command_of(model: type[Command], fields: Mapping[str, Any], actor_id: UUID) -> Command:
    """Make the command that an actor means; raises pydantic's `ValidationError`."""
    own = {"group_id": group_of(actor_id)} if is_about_own_group(model) else {}
    return model.model_validate({**fields, **own})


def id_for(key: str | None, actor_id: UUID) -> UUID:
    """Return a command's id: one that follows from the actor and their idempotency key; any other without a key.

    A key is one person's: it has nothing to do with anybody else's commands, and is never an id itself.
    """
    return uuid4() if key is None else derive_own(actor_id, f"command/{key}")


async def post(engine: AsyncEngine, command: Command, actor_id: UUID, id_: UUID) -> None:
    """Post a command, once, however often it is sent. Raises `IdConflict`."""
    assert type(command) in POSTABLE.values(), "nobody would note what becomes of it"
    now = datetime.now(UTC)
    row = {
        "id": id_,
        "type": command.TYPE,
        "actor_id": actor_id,
        "content_hash": content_hash(command, actor_id),
        "state": CommandState.PENDING.value,
        "asked_at": now,
    }
    new = insert(commands).values(row).on_conflict_do_nothing().returning(commands.c.id)
    known = sa.select(commands.c.content_hash).where(commands.c.id == id_)
    async with PostgresDatabase(engine).begin() as tx:
        if (await tx.execute(new)).one_or_none() is None:
            if (await tx.execute(known)).scalar_one() != row["content_hash"]:
                raise IdConflict
            return
        out = Outgoing(id_, command.TYPE, command.key(), command.to_json(), str(id_), str(id_), actor_id, None)
        with tracing().posting(out):
            await tx.send([out], now)
