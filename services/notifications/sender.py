"""The sender: renders mails, commits them, sends them, and records what the server said.

A mail's bytes are committed before the server is contacted, with a Message-ID derived from the mail's cause, so that
every attempt sends the same. A crash between the server's answer and our record leaves `in_flight_since` behind: it
can't be known whether that mail arrived, nor can it if the connection breaks before the answer. So the mail is counted
and shown as uncertain, and sent again under the same Message-ID, by which a mail server or client can recognise it.

A mail that names several people is not kept as bytes, in which nobody who is erased would be found: it is rendered at
each attempt, with the names of those who are there.

A mail that can't be rendered, or does not parse back as intended, is parked with a code and never sent. A mail waits
for the records of its people, but not forever (`domain`): without its recipient's record it is abandoned in the end,
without those of the people it is about, or names, it is sent without their names.

Mails are sent in rounds, each of which is taken by a few statements and recorded by a few. Two rounds are under way at
once: while the mails of one are with the server, those of the other are rendered or recorded. To each other they are
what two replicas are, so nothing depends on their order.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.database import Cause, Conflict, Outage
from services.chassis.outages import Outages
from services.chassis.postgres import PostgresDatabase, unnest
from services.chassis.tracing import tracing
from services.chassis.wakeups import Wakeup
from services.notifications import metrics
from services.notifications.domain import (
    RECIPIENT_WAIT,
    SUBJECT_WAIT,
    WAITING,
    Delivery,
    MailState,
    Person,
    named_in,
)
from services.notifications.mime import Unsound
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings
from services.notifications.smtp import Broken, Envelope, Late, LockedOut, MailServer, Refused, Unsendable
from services.notifications.tables import DELIVERIES, MAILS, PEOPLE, deliveries, erased, mails, people

log = structlog.get_logger(__name__)

ROUNDS = 2

NAMES_AGAIN = timedelta(seconds=5)
"""When a mail is looked at again that names people without a record. No query finds those, so it leaves the queue."""

RECORD_AGAIN_S = 1.0
"""The pause before recording the server's answer is tried again."""


@dataclass(slots=True)
class Due:
    """A mail whose turn it is."""

    id: UUID
    recipient: str
    rendered: bytes
    attempts: int
    made_at: datetime
    traceparent: str | None = None
    kept: bool = True
    """False for a mail that is rendered again at the next attempt."""


@dataclass(slots=True)
class Answer:
    """The outcome of an attempt. `final` is False if another one is worth while.

    `uncertain` is True if the server got the mail and no answer arrived.
    """

    mail: Due
    sent: bool
    final: bool
    text: str
    uncertain: bool = False
    locked_out: bool = False
    """True if the server did not take our user and password: the mail is not to blame."""
    late: bool = False
    """True if the round ended before the server heard of the mail."""
    delay_s: float = 0
    """The time from a sent mail's commit to its acceptance."""

    @property
    def outcome(self) -> str:
        """Return it in a word, for a trace: the server's own words may name the recipient."""
        if self.final:
            return "sent" if self.sent else "refused"
        return "uncertain" if self.uncertain else "put off"


async def send_mails(engine: AsyncEngine, settings: NotificationsSettings, outages: Outages, committed: Wakeup) -> None:
    """Send mails until cancelled; `committed` wakes it when there may be new ones."""
    sender = Sender(engine, settings, outages)
    try:
        async with asyncio.TaskGroup() as rounds:  # whose end waits for theirs, unlike that of `gather`
            for _ in range(ROUNDS):
                rounds.create_task(sender.run(committed))
    finally:
        sender.server.close()


async def send_due(engine: AsyncEngine, settings: NotificationsSettings, outages: Outages | None = None) -> int:
    """Do one round; return how many mails it took on. Raises `Outage` or `Conflict` before anything was sent."""
    sender = Sender(engine, settings, outages or Outages())
    try:
        due = await sender.take()
        await sender.finish(due)
        return len(due)
    finally:
        sender.server.close()


class Sender:
    """What one replica's rounds share: the connections to the mail server, and the size that a round may have."""

    def __init__(self, engine: AsyncEngine, settings: NotificationsSettings, outages: Outages) -> None:
        self.server = MailServer(settings)
        self._settings = settings
        self._database = PostgresDatabase(engine)
        self._outages = outages
        self._taking = asyncio.Lock()
        self._most = settings.mails_at_once
        if settings.smtp_mails_per_s is not None:  # no round may outlast its lease
            self._most = max(1, min(self._most, int(settings.smtp_mails_per_s * settings.mail_lease_s / 8)))
        self._room = self._most

    async def run(self, committed: Wakeup) -> None:
        """Do round after round until cancelled. While nothing is due, one of those that run looks for mails."""
        while True:
            try:
                async with self._taking:
                    due = await self.take()
                    if not due:
                        self.server.close_idle()
                        await committed.rest(self._settings.mail_poll_s)
                await self.finish(due)
            except Exception as error:
                if _is_cancelled():
                    raise asyncio.CancelledError from error
                if not isinstance(error, Outage | Conflict):  # which the next round may be spared
                    log.error("mails_not_sent", error=type(error).__name__, exc_info=True)
                await asyncio.sleep(self._settings.mail_poll_s)

    async def take(self) -> list[Due]:
        """Take and render the mails of a round. Raises `Outage` and `Conflict`."""
        with self._outages.watching("mails"):
            async with self._database.begin() as tx:
                return await _take(tx.connection, self._settings, datetime.now(UTC), self._room)

    async def finish(self, due: Sequence[Due]) -> None:
        """Send the mails of a round, and record what the server said."""
        if due:
            answers = await _deliver(due, self.server)
            late = sum(answer.late for answer in answers)
            self._room = max(1, len(due) - late) if late else min(2 * self._room, self._most)
            with suppress(Outage), self._outages.watching("mails to the mail server"):
                if any(answer.locked_out for answer in answers):
                    raise Outage("it refuses our password", Cause.PRIVILEGE)
            await _until_recorded(self._database, answers, self._settings, self._outages)


def _is_cancelled() -> bool:
    """Return whether we are to end: within a statement, that may come out as an error of its connection."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _until_recorded(
    database: PostgresDatabase, answers: Sequence[Answer], settings: NotificationsSettings, outages: Outages
) -> None:
    """Record the server's answers, however long the database takes: what is not recorded is sent again."""
    while True:
        try:
            with outages.watching("answers of the mail server"):
                async with database.begin() as tx:
                    recorded = await _record(tx.connection, answers, settings, datetime.now(UTC))
        except (Outage, Conflict) as error:
            if _is_cancelled():
                raise asyncio.CancelledError from error
            await asyncio.sleep(RECORD_AGAIN_S)
        else:
            return _tell(recorded)


def _tell(answers: Sequence[Answer]) -> None:
    """Count and log what was recorded."""
    for answer in answers:
        if answer.sent:
            metrics.SENT.inc()
            metrics.DELAY.observe(answer.delay_s)
            continue
        if answer.final:
            metrics.REFUSED.inc()
            continue
        metrics.RETRIED.inc()
        if answer.uncertain:
            _uncertain(answer.mail.id)
        log.info("mail_put_off", mail_id=str(answer.mail.id), answer=answer.text)


async def _take(
    connection: AsyncConnection, settings: NotificationsSettings, now: datetime, room: int | None = None
) -> list[Due]:
    """Take the mails that are due and whose people are known; render the new ones; mark all as in flight.

    At most `room` of them; without it, as many as the settings allow.
    """
    due = {
        "now": now,
        "at_once": room or settings.mails_at_once,
        "p_recipient_by": now - RECIPIENT_WAIT,
        "p_subject_by": now - SUBJECT_WAIT,
    }
    rows = (await connection.execute(_DUE, due)).all()
    before = await _before(connection, rows)
    fresh = [row for row in rows if before[row.id].rendered is None]
    directory = await _look_up(connection, fresh)
    await _give_up(connection, fresh, directory, now)
    nameless = [row for row in fresh if directory.lacks_names(row, now)]
    await _put_off(connection, [row.id for row in nameless], [now + NAMES_AGAIN] * len(nameless))
    ready = [row for row in rows if before[row.id].rendered is not None or directory.has(row, now)]
    taken: list[Due] = []
    uncertain: list[int] = []
    parked: list[tuple[UUID, str]] = []
    for row in ready:
        known = before[row.id]
        mail = _due(row, known, directory, settings)
        if isinstance(mail, str):
            parked.append((row.id, mail))
            continue
        if known.in_flight_since is not None:
            _uncertain(row.id)
        uncertain.append(known.uncertain + (known.in_flight_since is not None))
        taken.append(mail)
    if taken:
        ids = [mail.id for mail in taken]
        await connection.execute(_LEASE, {"p_ids": ids, "p_until": now + timedelta(seconds=settings.mail_lease_s)})
        flights = {
            "p_id": ids,
            "p_rendered": [mail.rendered if mail.kept else None for mail in taken],
            "p_recipient": [mail.recipient if mail.kept else None for mail in taken],
            "p_attempts": [mail.attempts for mail in taken],
            "p_uncertain": uncertain,
            "p_now": now,
        }
        await connection.execute(_TAKE_OFF, flights)
    if parked:
        await connection.execute(_PARK, {"p_ids": [id_ for id_, _ in parked]})
        await connection.execute(_NOTE, {"p_id": [id_ for id_, _ in parked], "p_code": [code for _, code in parked]})
    return taken


async def _give_up(connection: AsyncConnection, rows: Sequence[Any], directory: "_Directory", now: datetime) -> None:
    """Drop mails to erased people, and abandon mails to people whose records never arrived."""
    dropped = [row.id for row in rows if row.recipient_id in directory.erased]
    if dropped:
        await connection.execute(_DROP, {"p_ids": dropped, "p_state": MailState.ERASED.value})
    strangers = [row for row in rows if row.recipient_id in directory.unknown and row.made_at <= now - RECIPIENT_WAIT]
    if strangers:
        await connection.execute(_DROP, {"p_ids": [row.id for row in strangers], "p_state": MailState.ABANDONED.value})
    for row in strangers:
        metrics.ABANDONED.inc()
        log.error("mail_abandoned", mail_id=str(row.id), template=row.template, recipient_id=str(row.recipient_id))


async def _put_off(connection: AsyncConnection, ids: Sequence[UUID], until: Sequence[datetime]) -> None:
    if ids:
        await connection.execute(_LATER, {"p_id": ids, "p_next": until})


async def _before(connection: AsyncConnection, rows: Sequence[Any]) -> dict[UUID, Delivery]:
    """Return the deliveries of mails that are locked by now.

    In a separate query: the one that locks them may still see what an erasure removed before the lock was granted.
    """
    if not rows:
        return {}
    ids = [row.id for row in rows]
    found = [DELIVERIES.from_values(each) for each in await connection.execute(_BEFORE, {"p_ids": ids})]
    none_yet = {id_: Delivery(id_, None, None, 0, None, 0, None, None) for id_ in ids}
    return none_yet | {delivery.mail_id: delivery for delivery in found}


@dataclass(slots=True)
class _Directory:
    """What is known about the people of some mails, which can't change until the transaction ends."""

    people: dict[UUID, Person]
    erased: set[UUID]
    unknown: set[UUID]
    """People without a record."""
    changing: set[UUID]
    """People whose record is being changed."""

    def has(self, row: Any, now: datetime) -> bool:
        """Return whether a mail can be rendered: all its people are known, or all but its recipient never will be."""
        return (
            row.recipient_id in self.people
            and (
                row.about_id is None
                or row.about_id in self.people
                or row.about_id in self.erased
                or (row.about_id in self.unknown and row.made_at <= now - SUBJECT_WAIT)
            )
            and not any(id_ in self.changing for id_, _ in named_in(row.params))
            and not self.lacks_names(row, now)
        )

    def lacks_names(self, row: Any, now: datetime) -> bool:
        """Return whether a mail still waits for the records of people whom it names."""
        return row.made_at > now - SUBJECT_WAIT and any(id_ in self.unknown for id_, _ in named_in(row.params))


async def _look_up(connection: AsyncConnection, rows: Sequence[Any]) -> _Directory:
    """Look up the people of mails, and keep them from being erased before the bytes are committed.

    People whose record is being changed right now are left out, since their mails will be due again. Waiting for that
    change could deadlock, as it may be waiting for those mails.
    """
    ids = {id_ for row in rows for id_ in (row.recipient_id, row.about_id) if id_ is not None}
    ids |= {id_ for row in rows for id_, _ in named_in(row.params)}
    if not ids:
        return _Directory({}, set(), set(), set())
    found = [PEOPLE.from_values(row) for row in await connection.execute(_PEOPLE, {"p_ids": list(ids)})]
    people_found = {person.id: person for person in found}
    missing = list(ids - people_found.keys())
    if not missing:
        return _Directory(people_found, set(), set(), set())
    gone = set((await connection.execute(_GONE, {"p_ids": missing})).scalars())
    changing = set((await connection.execute(_THERE, {"p_ids": missing})).scalars())
    return _Directory(people_found, gone, set(missing) - gone - changing, changing)


def _due(row: Any, known: Delivery, directory: _Directory, settings: NotificationsSettings) -> Due | str:
    """Return a mail with its bytes. If it can't be rendered, which is a bug in one mail, log that and return a code."""
    attempts = known.attempts + 1
    if known.rendered is not None and known.recipient is not None:
        return Due(row.id, known.recipient, known.rendered, attempts, row.made_at, row.traceparent)
    recipient = directory.people[row.recipient_id]
    try:
        about = directory.people.get(row.about_id)
        rendered = render(MAILS.from_values(row), recipient, about, settings, directory.people)
    except Exception as error:
        code, why = ("unsound", str(error)) if isinstance(error, Unsound) else ("not_rendered", type(error).__name__)
        metrics.PARKED.inc()
        log.error("mail_parked", mail_id=str(row.id), template=row.template, code=code, why=why)
        return code
    kept = not named_in(row.params)
    return Due(row.id, recipient.email, rendered, attempts, row.made_at, row.traceparent, kept)


def _uncertain(mail_id: UUID) -> None:
    metrics.UNCERTAIN.inc()
    log.warning("mail_uncertain", mail_id=str(mail_id))


async def _deliver(due: Sequence[Due], server: MailServer) -> list[Answer]:
    """Send mails. Whatever happens to a connection, each mail gets an answer."""
    # The lease outlasts the round: no mail is begun in its second half, and each may take a quarter of it.
    begin_by = asyncio.get_running_loop().time() + server.settings.mail_lease_s / 2
    return await asyncio.gather(*(_traced(mail, server, begin_by) for mail in due))


async def _traced(mail: Due, server: MailServer, begin_by: float) -> Answer:
    with tracing().mailing(mail.id, mail.attempts, mail.traceparent) as traced:
        answer = await _attempt(mail, server, begin_by)
        traced.ends(answer.outcome)
    return answer


async def _attempt(mail: Due, server: MailServer, begin_by: float) -> Answer:
    settings = server.settings
    envelope = Envelope(settings.mail_from, mail.recipient, mail.rendered)
    try:
        reply = await server.send(envelope, begin_by, settings.mail_lease_s / 4)
    except Late:
        return Answer(mail, False, False, "out of time", late=True)
    except Refused as error:
        return Answer(mail, False, error.permanent, str(error))
    except Unsendable as error:
        return Answer(mail, False, True, str(error))
    except Broken as error:
        return Answer(mail, False, False, str(error), error.uncertain, isinstance(error, LockedOut))
    except Exception as error:  # a bug, which must not keep the answers to the other mails from being recorded
        log.error("mail_not_attempted", mail_id=str(mail.id), error=type(error).__name__, exc_info=True)
        return Answer(mail, False, False, type(error).__name__, uncertain=True)
    delay_s = max(0.0, (datetime.now(UTC) - mail.made_at).total_seconds())
    return Answer(mail, True, True, reply.text, delay_s=delay_s)


async def _record(
    connection: AsyncConnection, answers: Sequence[Answer], settings: NotificationsSettings, now: datetime
) -> list[Answer]:
    """Record the server's answers, and return those that counted. A finished mail loses its text and its address.

    The mails are locked first, in the order of their ids, as erasing people does. The number of the attempt is the
    lease's fence: a sender that was paused until another took the mail must not end the other's attempt.
    """
    await connection.execute(_LOCK, {"p_ids": [answer.mail.id for answer in answers]})
    counted = set((await connection.execute(_HEARD, _heard_of(answers, now))).scalars())
    answers = [answer for answer in answers if answer.mail.id in counted]
    if ended := [answer for answer in answers if answer.final]:
        states = [(MailState.SENT if answer.sent else MailState.REFUSED).value for answer in ended]
        await connection.execute(_DONE, {"p_id": [answer.mail.id for answer in ended], "p_state": states})
    if put_off := [answer.mail for answer in answers if not answer.final]:
        last = len(settings.mail_backoff_s)
        pauses = [settings.mail_backoff_s[min(mail.attempts, last) - 1] for mail in put_off]
        await _put_off(connection, [mail.id for mail in put_off], [now + timedelta(seconds=pause) for pause in pauses])
    return answers


def _heard_of(answers: Sequence[Answer], now: datetime) -> dict[str, Any]:
    return {
        "p_id": [answer.mail.id for answer in answers],
        "p_attempt": [answer.mail.attempts for answer in answers],
        "p_answer": [_storable(answer.text) for answer in answers],
        "p_final": [answer.final for answer in answers],
        "p_sent": [answer.sent for answer in answers],
        "p_unsure": [int(answer.uncertain) for answer in answers],
        "p_now": now,
    }


def _storable(answer: str) -> str:
    """Return a server's answer in a form that PostgreSQL's text can hold, since a server may send anything."""
    return answer[:200].encode("ascii", "backslashreplace").decode().replace("\x00", "\\x00")


_ids = sa.any_(sa.bindparam("p_ids", type_=ARRAY(sa.Uuid)))


# A person is known who is, or was, in the directory.
_about, _to_nobody, _about_nobody = people.alias("about"), erased.alias("to_nobody"), erased.alias("about_nobody")
_DUE = (
    sa.select(*MAILS.columns)
    .outerjoin(people, people.c.id == mails.c.recipient_id)
    .outerjoin(_to_nobody, _to_nobody.c.id == mails.c.recipient_id)
    .outerjoin(_about, _about.c.id == mails.c.about_id)
    .outerjoin(_about_nobody, _about_nobody.c.id == mails.c.about_id)
    .where(
        mails.c.state.in_([state.value for state in WAITING]),
        mails.c.next_attempt_at <= sa.bindparam("now"),
        sa.or_(
            people.c.id.is_not(None),
            _to_nobody.c.id.is_not(None),
            mails.c.made_at <= sa.bindparam("p_recipient_by"),
        ),
        sa.or_(
            mails.c.about_id.is_(None),
            _about.c.id.is_not(None),
            _about_nobody.c.id.is_not(None),
            mails.c.made_at <= sa.bindparam("p_subject_by"),
        ),
    )
    .order_by(mails.c.next_attempt_at)
    .limit(sa.bindparam("at_once"))
    .with_for_update(of=mails, skip_locked=True)
)
_BEFORE = sa.select(*DELIVERIES.columns).where(deliveries.c.mail_id == _ids)
_PEOPLE = sa.select(*PEOPLE.columns).where(people.c.id == _ids).with_for_update(read=True, skip_locked=True)
_LOCK = sa.select(mails.c.id).where(mails.c.id == _ids).order_by(mails.c.id).with_for_update()
_THERE = sa.select(people.c.id).where(people.c.id == _ids)
_GONE = sa.select(erased.c.id).where(erased.c.id == _ids)
_DROP = sa.update(mails).values(state=sa.bindparam("p_state"), params={}).where(mails.c.id == _ids)
_LEASE = (
    sa.update(mails)
    .values(state=MailState.RENDERED.value, next_attempt_at=sa.bindparam("p_until"))
    .where(mails.c.id == _ids)
)

_now = sa.bindparam("p_now", type_=deliveries.c.sent_at.type)
_flights = unnest(
    p_id=sa.Uuid(),
    p_rendered=deliveries.c.rendered.type,
    p_recipient=sa.Text(),
    p_attempts=sa.Integer(),
    p_uncertain=sa.Integer(),
)
_TAKEN = ("rendered", "recipient", "attempts", "uncertain", "in_flight_since")
_new = insert(deliveries).from_select(
    ["mail_id", *_TAKEN],
    sa.select(
        _flights.c.p_id,
        _flights.c.p_rendered,
        _flights.c.p_recipient,
        _flights.c.p_attempts,
        _flights.c.p_uncertain,
        _now,
    ),
)
_TAKE_OFF = _new.on_conflict_do_update(index_elements=["mail_id"], set_={name: _new.excluded[name] for name in _TAKEN})
_codes = unnest(p_id=sa.Uuid(), p_code=sa.Text())
_none_yet = insert(deliveries).from_select(
    ["mail_id", "attempts", "uncertain", "last_answer"],
    sa.select(_codes.c.p_id, sa.literal(0), sa.literal(0), _codes.c.p_code),
)
_NOTE = _none_yet.on_conflict_do_update(
    index_elements=["mail_id"], set_={"last_answer": _none_yet.excluded.last_answer}
)
_PARK = sa.update(mails).values(state=MailState.PARKED.value).where(mails.c.id == _ids)

_heard = unnest(
    p_id=sa.Uuid(),
    p_attempt=sa.Integer(),
    p_answer=sa.Text(),
    p_final=sa.Boolean(),
    p_sent=sa.Boolean(),
    p_unsure=sa.Integer(),
)
_HEARD = (
    sa.update(deliveries)
    .values(
        in_flight_since=None,
        last_answer=_heard.c.p_answer,
        rendered=sa.case((_heard.c.p_final, None), else_=deliveries.c.rendered),
        recipient=sa.case((_heard.c.p_final, None), else_=deliveries.c.recipient),
        sent_at=sa.case((_heard.c.p_sent, _now), else_=None),
        uncertain=deliveries.c.uncertain + _heard.c.p_unsure,
    )
    .where(deliveries.c.mail_id == _heard.c.p_id, deliveries.c.attempts == _heard.c.p_attempt)
    .returning(deliveries.c.mail_id)
)
# What was erased meanwhile, or has already bounced, stays so.
_ends = unnest(p_id=sa.Uuid(), p_state=sa.Text())
_DONE = (
    sa.update(mails)
    .values(state=_ends.c.p_state, params={})
    .where(mails.c.id == _ends.c.p_id, mails.c.state == MailState.RENDERED.value)
)
_nexts = unnest(p_id=sa.Uuid(), p_next=mails.c.next_attempt_at.type)
_LATER = sa.update(mails).values(next_attempt_at=_nexts.c.p_next).where(mails.c.id == _nexts.c.p_id)
