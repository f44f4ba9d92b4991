"""The statements of notifications' sender, on the model of PostgreSQL.

Each does what its SQL says, known by its identity. A statement that skips locked rows chooses them as they were when it
began, and looks at each again once it has its lock, at its own columns alone, as READ COMMITTED does.
"""

from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final, Self
from uuid import UUID

import sqlalchemy as sa

from services.chassis.rows import Mapped, replace
from services.notifications import sender
from services.notifications.domain import WAITING, Delivery, Mail, MailState
from services.notifications.tables import DELIVERIES, ERASED, MAILS, PEOPLE
from tests.simulation.hub import Hub
from tests.simulation.transactions import ModelDatabase, ModelTransaction, ServerTransaction

Given = Mapping[str, Any]

_ROWS: Final = {mapped: namedtuple("_Row", mapped.names) for mapped in (MAILS, DELIVERIES, PEOPLE)}


def as_row(mapped: Mapped[Any, Any], row: Any) -> Any:
    """Return a row as SQLAlchemy does: its values in order, and by name."""
    return _ROWS[mapped](*(getattr(row, name) for name in mapped.names))


async def _due(tx: ServerTransaction, given: Given) -> list[Any]:
    def waits(mail: Mail) -> bool:
        return mail.state in WAITING and mail.next_attempt_at <= given["now"]

    known = {*tx.rows(PEOPLE), *tx.rows(ERASED)}
    seen: list[Mail] = [
        mail
        for mail in tx.rows(MAILS).values()
        if waits(mail)
        and (mail.recipient_id in known or mail.made_at <= given["p_recipient_by"])
        and (mail.about_id is None or mail.about_id in known or mail.made_at <= given["p_subject_by"])
    ]
    seen.sort(key=lambda mail: mail.next_attempt_at)
    await tx.server.take_time()
    found: list[Any] = []
    for mail in seen:
        if len(found) < given["at_once"] and (now := await _locked(tx, MAILS, mail.id)) is not None and waits(now):
            found.append(as_row(MAILS, now))
    return found


async def _locked(tx: ServerTransaction, mapped: Mapped[Any, Any], key: UUID, *, shared: bool = False) -> Any:
    """Return a row once it is locked; None if another has locked it, or it is gone."""
    if tx.server.locks.is_locked(tx, (mapped.table.name, key), shared=shared):
        return None
    await tx.lock(mapped.table.name, key, shared=shared)
    return tx.row(mapped, key)


async def _before(tx: ServerTransaction, given: Given) -> list[Any]:
    rows = [tx.row(DELIVERIES, id_) for id_ in given["p_ids"]]
    return [as_row(DELIVERIES, row) for row in rows if row is not None]


async def _people(tx: ServerTransaction, given: Given) -> list[Any]:
    there = [id_ for id_ in sorted(given["p_ids"]) if tx.row(PEOPLE, id_) is not None]
    await tx.server.take_time()
    found = [await _locked(tx, PEOPLE, id_, shared=True) for id_ in there]
    return [as_row(PEOPLE, row) for row in found if row is not None]


async def _gone(tx: ServerTransaction, given: Given) -> list[UUID]:
    return [id_ for id_ in given["p_ids"] if tx.row(ERASED, id_) is not None]


async def _there(tx: ServerTransaction, given: Given) -> list[UUID]:
    return [id_ for id_ in given["p_ids"] if tx.row(PEOPLE, id_) is not None]


async def _lock(tx: ServerTransaction, given: Given) -> list[UUID]:
    return await tx.update(MAILS, given["p_ids"], lambda mail: mail)


def _changes(
    state: str | MailState, params: dict[str, Any] | None = None, until: str | None = None
) -> Callable[[ServerTransaction, Given], Awaitable[Any]]:
    """Return a statement that changes mails; `state` and `until` may be parameters' names."""

    async def work(tx: ServerTransaction, given: Given) -> None:
        values: dict[str, Any] = {"state": MailState(given.get(state, state))}
        values |= {} if params is None else {"params": params}
        values |= {} if until is None else {"next_attempt_at": given[until]}
        await tx.update(MAILS, given["p_ids"], lambda mail: replace(mail, **values))

    return work


async def _take_off(tx: ServerTransaction, given: Given) -> None:
    columns = ("p_id", "p_rendered", "p_recipient", "p_attempts", "p_uncertain")
    for id_, rendered, recipient, attempts, uncertain in zip(*(given[each] for each in columns), strict=True):
        new = Delivery(id_, rendered, recipient, attempts, given["p_now"], uncertain, None, None)
        await tx.upsert(DELIVERIES, new, kept=("last_answer", "sent_at"))


async def _note(tx: ServerTransaction, given: Given) -> None:
    kept = ("rendered", "recipient", "attempts", "in_flight_since", "uncertain", "sent_at")
    for id_, code in zip(given["p_id"], given["p_code"], strict=True):
        await tx.upsert(DELIVERIES, Delivery(id_, None, None, 0, None, 0, code, None), kept)


async def _heard(tx: ServerTransaction, given: Given) -> list[UUID]:
    columns = ("p_attempt", "p_answer", "p_final", "p_sent", "p_unsure")
    answers = {id_: each for id_, *each in zip(given["p_id"], *(given[name] for name in columns), strict=True)}

    def heard(row: Delivery) -> Delivery | None:
        attempt, answer, final, sent, unsure = answers[row.mail_id]
        if row.attempts != attempt:
            return None
        return replace(
            row,
            in_flight_since=None,
            last_answer=answer,
            rendered=None if final else row.rendered,
            recipient=None if final else row.recipient,
            sent_at=given["p_now"] if sent else None,
            uncertain=row.uncertain + unsure,
        )

    return await tx.update(DELIVERIES, answers, heard)


async def _done(tx: ServerTransaction, given: Given) -> None:
    states = dict(zip(given["p_id"], given["p_state"], strict=True))

    def done(mail: Mail) -> Mail | None:
        return replace(mail, state=MailState(states[mail.id]), params={}) if mail.state is MailState.RENDERED else None

    await tx.update(MAILS, states, done)


async def _later(tx: ServerTransaction, given: Given) -> None:
    nexts = dict(zip(given["p_id"], given["p_next"], strict=True))
    await tx.update(MAILS, nexts, lambda mail: replace(mail, next_attempt_at=nexts[mail.id]))


STATEMENTS: Final[dict[sa.Executable, Callable[[ServerTransaction, Given], Awaitable[Any]]]] = {
    sender._DUE: _due,
    sender._BEFORE: _before,
    sender._PEOPLE: _people,
    sender._GONE: _gone,
    sender._THERE: _there,
    sender._LOCK: _lock,
    sender._DROP: _changes("p_state", params={}),
    sender._LEASE: _changes(MailState.RENDERED, until="p_until"),
    sender._PARK: _changes(MailState.PARKED),
    sender._TAKE_OFF: _take_off,
    sender._NOTE: _note,
    sender._HEARD: _heard,
    sender._DONE: _done,
    sender._LATER: _later,
}


class _Result:
    """What a statement returned, as SQLAlchemy has it."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        return self._rows

    scalars = all


class _Sending(ModelTransaction):
    """A transaction of the sender, which is its own connection."""

    @property
    def connection(self) -> Self:
        return self

    async def execute(self, statement: sa.Executable, given: Given) -> _Result:
        return await self._ask("do", STATEMENTS[statement], given, read=lambda rows: _Result(rows or ()))


class SendersDatabase(ModelDatabase):
    """The database, as the sender uses it."""

    transaction = _Sending


class VirtualDate:
    """The class `datetime`, as far as the sender asks it for the present moment."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def now(self, _: tzinfo) -> datetime:
        return self._hub.date()
