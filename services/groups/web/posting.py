"""Posting commands: into the outbox, together with a row that keeps the outcome, in one transaction."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
    await post_all(engine, {id_: command}, actor_id)


async def post_all(
    engine: AsyncEngine, posted: Mapping[UUID, Command], actor_id: UUID, beside: Sequence[sa.Executable] = ()
) -> None:
    """Post commands by their ids, all or none, each once, however often they are sent. Raises `IdConflict`.

    What `beside` writes is written in the same transaction.
    """
    assert all(type(command) in POSTABLE.values() for command in posted.values()), (
        "nobody would note what becomes of it"
    )
    now = datetime.now(UTC)
    hashes = {id_: content_hash(command, actor_id) for id_, command in posted.items()}
    rows = [
        {
            "id": id_,
            "type": command.TYPE,
            "actor_id": actor_id,
            "content_hash": hashes[id_],
            "state": CommandState.PENDING.value,
            "asked_at": now,
        }
        for id_, command in posted.items()
    ]
    new = insert(commands).values(rows).on_conflict_do_nothing().returning(commands.c.id)
    known = sa.select(commands.c.id, commands.c.content_hash).where(commands.c.id.in_(list(posted)))
    async with PostgresDatabase(engine).begin() as tx:
        made = set((await tx.execute(new)).scalars())
        if len(made) < len(posted) and any(row.content_hash != hashes[row.id] for row in await tx.execute(known)):
            raise IdConflict
        for statement in beside:
            await tx.execute(statement)
        out = [_outgoing(id_, command, actor_id) for id_, command in posted.items() if id_ in made]
        with ExitStack() as traced:
            for each in out:
                traced.enter_context(tracing().posting(each))
            await tx.send(out, now)


def _outgoing(id_: UUID, command: Command, actor_id: UUID) -> Outgoing:
    return Outgoing(id_, command.TYPE, command.key(), command.to_json(), str(id_), str(id_), actor_id, None)
