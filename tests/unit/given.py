"""Tests of handlers that read as sentences: given these rows, when this message comes, then exactly these messages.

    given(LEDGER, Account(ADA, 10, 0, 1)).when(ReserveUnits(…)).then(UnitsReserved(…)).leaves(Account(ADA, 10, 4, 1), …)

Loading, handling and saving are the service's own, on a database in memory. Messages and timers are compared whole,
and an unexpected one fails; `leaves` compares every row. A refusal that its command does not declare fails, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID, uuid5

from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import TIMERS, Effect, Incoming, StoredRecord
from services.chassis.rows import AppendOnly, Mapped
from services.chassis.service import Moment, Service
from services.groups import tables as groups
from services.ledger import tables as ledger
from services.notifications import tables as notifications
from services.provisioning import tables as provisioning
from tests.declared import note
from tests.simulation.world import drive

NOW = datetime(2031, 1, 1, tzinfo=UTC)
MOMENT = Moment(NOW, lambda length: b"\x07" * length)

_NAMES = UUID("00000000-0000-4000-8000-000000000000")

TABLES: dict[type[Any], Mapped[Any, Any]] = {
    mapped.row: mapped
    for module in (groups, ledger, notifications, provisioning)
    for mapped in vars(module).values()
    if isinstance(mapped, Mapped)
}
"""The table of each class of rows."""


def id_of(name: str) -> UUID:
    """Return an id that a test can call by its name."""
    return uuid5(_NAMES, name)


def incoming(
    body: Message, actor: UUID | None = None, id_: UUID | None = None, writer: Principal | None = None
) -> Incoming[Message]:
    """Put a message into an envelope. Its id is derived from its content unless it is given.

    `writer` is for messages that several principals may send; it is the first of them unless it is given.
    """
    id_ = id_ or uuid5(_NAMES, f"{body!r}")
    topic = next((topic.name for topic in body.TOPICS if writer in (None, topic.writer)), TIMERS)
    record = StoredRecord(id_, None, topic, 0, 0, body.key().encode(), body.to_json(), ())
    return Incoming(id_, body, record, "correlation", actor)


@dataclass
class Scene:
    """A service, its rows, and the result of a batch."""

    service: Service
    database: MemoryDatabase
    effects: list[Effect] = field(default_factory=list)

    def when(self, *messages: Message | Incoming[Message], actor: UUID | None = None, at: datetime = NOW) -> Self:
        """Handle messages in one batch. The results of an earlier batch are discarded."""
        batch = [m if isinstance(m, Incoming) else incoming(m, actor) for m in messages]
        self.effects = drive(self._handle(batch, replace(MOMENT, now=at)))
        return self

    async def _handle(self, batch: Sequence[Incoming[Message]], moment: Moment) -> list[Effect]:
        async with self.database.begin() as tx:
            state = await self.service.state(tx, batch)
            effects: list[Effect] = []
            for message in batch:
                outcome = self.service.handler(message)(state, message, moment)
                note(message.body, outcome)
                effects += outcome
            await tx.save(state.changes())
        return effects

    def then(self, *expected: Effect) -> Self:
        """Expect exactly these messages and timers, in this order."""
        assert self.effects == list(expected)
        return self

    def leaves(self, *expected: Any) -> Self:
        """Expect exactly these rows, in any order."""
        assert sorted(self.rows(), key=repr) == sorted(expected, key=repr)
        return self

    def rows(self) -> list[Any]:
        """Return every row."""
        contents = self.database.contents
        tables = [list(rows.values()) for rows in contents.tables.values()]
        return [row for rows in [*tables, *contents.appended.values()] for row in rows]

    def only(self, kind: type[Any]) -> Any:
        """Return the only row of a kind."""
        (row,) = [row for row in self.rows() if isinstance(row, kind)]
        return row


def given(service: Service, *rows: Any) -> Scene:
    """Return a scene with these rows and no others."""
    database = MemoryDatabase()
    for row in rows:
        mapped = TABLES[type(row)]
        name = mapped.table.name
        if isinstance(mapped, AppendOnly):
            database.contents.appended.setdefault(name, []).append(row)
        else:
            database.contents.tables.setdefault(name, {})[mapped.key_of(row)] = row
    return Scene(service, database)
