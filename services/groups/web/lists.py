"""Lists of commands: what somebody posts at once, each a command of its own, and follows together.

A list is kept for a day. Its lines hold what the page shows beside each outcome, such as an address that was pasted;
what became of a command is in the command's own row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.ids import derive_own
from popfax_contracts.message import Command
from services.groups.commands import short_name
from services.groups.domain import CommandState
from services.groups.tables import command_lists
from services.groups.web import queries
from services.groups.web.context import WebContext

KEPT = timedelta(days=1)
"""How long a list is kept."""

RECENT = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """A command to be posted, and what is shown beside its outcome."""

    command: Command
    about: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """A command of a list: its number from 0, what is shown beside its outcome, and what has become of it."""

    number: int
    about: Mapping[str, str]
    command: queries.Command

    @property
    def is_pending(self) -> bool:
        """Return whether nothing has become of it yet."""
        return self.command.state is CommandState.PENDING

    @property
    def event(self) -> str:
        """Return the short name of the event that answered it; empty before that, and after a refusal."""
        return str((self.command.result or {}).get("event", ""))


@dataclass(frozen=True, slots=True)
class CommandList:
    """Commands of one type that somebody posted at once."""

    id: UUID
    type: str
    made_at: datetime
    lines: tuple[Line, ...]

    @property
    def ended(self) -> int:
        """Return how many of its commands have ended."""
        return sum(not line.is_pending for line in self.lines)

    @property
    def is_pending(self) -> bool:
        """Return whether one of its commands has not ended."""
        return self.ended < len(self.lines)


@dataclass(frozen=True, slots=True)
class ListHead:
    """A list, without its lines."""

    id: UUID
    type: str
    made_at: datetime
    size: int


async def post_list(context: WebContext, entries: Sequence[Entry], actor_id: UUID, once: str) -> UUID:
    """Post commands of one type, all or none, and return their list's id.

    `once` stands for one sending of a form: the same commands, sent again with it, are the same list, posted once.
    """
    (type_,) = {entry.command.TYPE for entry in entries}
    content = sha256(b"\0".join(entry.command.to_json() for entry in entries)).hexdigest()
    id_ = derive_own(actor_id, f"list/{type_}/{once}/{content}")
    posted = {derive_own(id_, f"line/{n}"): entry.command for n, entry in enumerate(entries)}
    row = {
        "id": id_,
        "type": short_name(type_),
        "actor_id": actor_id,
        "made_at": datetime.now(UTC),
        "lines": [{"id": str(line), **entry.about} for line, entry in zip(posted, entries, strict=True)],
    }
    await context.limits.command_of(actor_id)
    await context.post_all(posted, actor_id, [insert(command_lists).values(row).on_conflict_do_nothing()])
    return id_


async def read(connection: AsyncConnection, id_: UUID, actor_id: UUID) -> CommandList | None:
    """Return a list of the caller's, and what has become of each line; None for somebody else's, or an old one."""
    mine = (command_lists.c.id == id_, command_lists.c.actor_id == actor_id)
    row = (await connection.execute(sa.select(command_lists).where(*mine))).one_or_none()
    if row is None:
        return None
    stored = [(UUID(line["id"]), _about(line)) for line in row.lines]
    found = await queries.commands_of(connection, [line_id for line_id, _ in stored], actor_id)
    lines = [Line(n, about, found[line_id]) for n, (line_id, about) in enumerate(stored) if line_id in found]
    return CommandList(row.id, row.type, row.made_at, tuple(lines))


async def recent(connection: AsyncConnection, actor_id: UUID, types: Collection[str]) -> Sequence[ListHead]:
    """Return the caller's newest lists of commands of these types."""
    table = command_lists.c
    size = sa.func.jsonb_array_length(table.lines).label("size")
    query = sa.select(table.id, table.type, table.made_at, size).where(
        table.actor_id == actor_id, table.type.in_(types)
    )
    rows = await connection.execute(query.order_by(table.made_at.desc()).limit(RECENT))
    return [ListHead(*row) for row in rows]


def _about(line: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: value for name, value in line.items() if name != "id"}
