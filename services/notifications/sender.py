"""The sender: renders mails, commits them, sends them, and records what the server said.

A mail's bytes are committed before the server is contacted, with a Message-ID derived from the mail's cause, so that
every attempt sends the same. A crash between the server's answer and our record leaves `in_flight_since` behind: it
can't be known whether that mail arrived, nor can it if the connection breaks before the answer. So the mail is counted
and shown as uncertain, and sent again under the same Message-ID, by which a mail server or client can recognise it.

A mail that can't be rendered, or does not parse back as intended, is parked with a code and never sent. A mail waits
for the records of its people, but not forever (`domain`): without its recipient's record it is abandoned in the end,
without that of the person it is about it is sent without a name.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiosmtplib
import sqlalchemy as sa
import structlog
from prometheus_client import Counter
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.database import Conflict, Outage
from services.chassis.outages import Outages
from services.chassis.postgres import PostgresDatabase
from services.chassis.wakeups import Wakeup
from services.notifications.domain import (
    RECIPIENT_WAIT,
    SUBJECT_WAIT,
    WAITING,
    Delivery,
    MailState,
    Person,
)
from services.notifications.mime import Unsound
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import DELIVERIES, MAILS, PEOPLE, deliveries, erased, mails, people

log = structlog.get_logger(__name__)

SENT = Counter("popfax_mails_sent_total", "Mails that the mail server took")
REFUSED = Counter("popfax_mails_refused_total", "Mails that the mail server refused for good")
RETRIED = Counter("popfax_mails_retried_total", "Attempts that the mail server put off, or that found it away")
PARKED = Counter("popfax_mails_parked_total", "Mails whose bytes can't be made, or would not say what is meant")
ABANDONED = Counter("popfax_mails_abandoned_total", "Mails given up: nobody was ever known under the recipient's id")
UNCERTAIN = Counter("popfax_mails_uncertain_total", "Mails sent again because a crash hid the server's answer")

EXCHANGE_TIMEOUT_S = 20.0

RECORD_AGAIN_S = 1.0
"""The pause before recording the server's answer is tried again."""


@dataclass(slots=True)
class Due:
    """A mail whose turn it is."""

    id: UUID
    recipient: str
    rendered: bytes
    attempts: int


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


async def send_mails(engine: AsyncEngine, settings: NotificationsSettings, outages: Outages, committed: Wakeup) -> None:
    """Send mails until cancelled; `committed` wakes it when there may be new ones."""
    while True:
        found = 0
        try:
            with outages.watching("mails"):
                found = await send_due(engine, settings, outages)
        except (Outage, Conflict):
            pass  # the next round is the next attempt
        except Exception as error:
            log.error("mails_not_sent", error=type(error).__name__, exc_info=True)
        if not found:
            await committed.rest(settings.mail_poll_s)


async def send_due(engine: AsyncEngine, settings: NotificationsSettings, outages: Outages | None = None) -> int:
    """Do one round; return how many mails it took on. Raises `Outage` or `Conflict` before anything was sent."""
    database = PostgresDatabase(engine)
    async with database.begin() as tx:
        due = await _take(tx.connection, settings, datetime.now(UTC))
    if due:
        answers = await _deliver(due, settings)
        await _until_recorded(database, answers, settings, outages or Outages())
    return len(due)


async def _until_recorded(
    database: PostgresDatabase, answers: Sequence[Answer], settings: NotificationsSettings, outages: Outages
) -> None:
    """Record the server's answers, however long the database takes: what is not recorded is sent again."""
    while True:
        try:
            with outages.watching("mails"):
                async with database.begin() as tx:
                    recorded = await _record(tx.connection, answers, settings, datetime.now(UTC))
        except (Outage, Conflict):
            await asyncio.sleep(RECORD_AGAIN_S)
        else:
            return _tell(recorded)


def _tell(answers: Sequence[Answer]) -> None:
    """Count and log what was recorded."""
    for answer in answers:
        if answer.final:
            (SENT if answer.sent else REFUSED).inc()
            continue
        RETRIED.inc()
        if answer.uncertain:
            _uncertain(answer.mail.id)
        log.info("mail_put_off", mail_id=str(answer.mail.id), answer=answer.text)


async def _take(connection: AsyncConnection, settings: NotificationsSettings, now: datetime) -> list[Due]:
    """Take the mails that are due and whose people are known; render the new ones; mark all as in flight."""
    due = {
        "now": now,
        "at_once": settings.mails_at_once,
        "p_recipient_by": now - RECIPIENT_WAIT,
        "p_subject_by": now - SUBJECT_WAIT,
    }
    rows = (await connection.execute(_DUE, due)).all()
    before = await _before(connection, rows)
    fresh = [row for row in rows if before[row.id].rendered is None]
    directory = await _look_up(connection, fresh)
    await _give_up(connection, fresh, directory, now)
    ready = [row for row in rows if before[row.id].rendered is not None or directory.has(row, now)]
    taken: list[Due] = []
    flights: list[dict[str, Any]] = []
    parked: list[dict[str, Any]] = []
    for row in ready:
        known = before[row.id]
        mail = _due(row, known, directory, settings)
        if isinstance(mail, str):
            parked.append({"p_id": row.id, "p_code": mail})
            continue
        if known.in_flight_since is not None:
            _uncertain(row.id)
        flights.append(
            {
                "mail_id": mail.id,
                "rendered": mail.rendered,
                "recipient": mail.recipient,
                "attempts": mail.attempts,
                "in_flight_since": now,
                "uncertain": known.uncertain + (known.in_flight_since is not None),
            }
        )
        taken.append(mail)
    if ready:
        until = now + timedelta(seconds=settings.mail_lease_s)
        await connection.execute(_LEASE, {"p_ids": [row.id for row in ready], "p_until": until})
    if flights:
        await connection.execute(_TAKE_OFF, flights)
    if parked:
        await connection.execute(_PARK, parked)
        await connection.execute(_NOTE, parked)
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
        ABANDONED.inc()
        log.error("mail_abandoned", mail_id=str(row.id), template=row.template, recipient_id=str(row.recipient_id))


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
    """People without a record. Those left out because their record is being changed are not among them."""

    def has(self, row: Any, now: datetime) -> bool:
        """Return whether a mail can be rendered: recipient and subject are known, or the latter never will be."""
        return row.recipient_id in self.people and (
            row.about_id is None
            or row.about_id in self.people
            or row.about_id in self.erased
            or (row.about_id in self.unknown and row.made_at <= now - SUBJECT_WAIT)
        )


async def _look_up(connection: AsyncConnection, rows: Sequence[Any]) -> _Directory:
    """Look up the people of mails, and keep them from being erased before the bytes are committed.

    People whose record is being changed right now are left out, since their mails will be due again. Waiting for that
    change could deadlock, as it may be waiting for those mails.
    """
    ids = {id_ for row in rows for id_ in (row.recipient_id, row.about_id) if id_ is not None}
    if not ids:
        return _Directory({}, set(), set())
    found = [PEOPLE.from_values(row) for row in await connection.execute(_PEOPLE, {"p_ids": list(ids)})]
    people_found = {person.id: person for person in found}
    missing = list(ids - people_found.keys())
    if not missing:
        return _Directory(people_found, set(), set())
    gone = set((await connection.execute(_GONE, {"p_ids": missing})).scalars())
    changing = set((await connection.execute(_THERE, {"p_ids": missing})).scalars())
    return _Directory(people_found, gone, set(missing) - gone - changing)


def _due(row: Any, known: Delivery, directory: _Directory, settings: NotificationsSettings) -> Due | str:
    """Return a mail with its bytes. If it can't be rendered, which is a bug in one mail, log that and return a code."""
    attempts = known.attempts + 1
    if known.rendered is not None and known.recipient is not None:
        return Due(row.id, known.recipient, known.rendered, attempts)
    recipient = directory.people[row.recipient_id]
    try:
        rendered = render(MAILS.from_values(row), recipient, directory.people.get(row.about_id), settings)
    except Exception as error:
        code, why = ("unsound", str(error)) if isinstance(error, Unsound) else ("not_rendered", type(error).__name__)
        PARKED.inc()
        log.error("mail_parked", mail_id=str(row.id), template=row.template, code=code, why=why)
        return code
    return Due(row.id, recipient.email, rendered, attempts)


def _uncertain(mail_id: UUID) -> None:
    UNCERTAIN.inc()
    log.warning("mail_uncertain", mail_id=str(mail_id))


async def _deliver(due: Sequence[Due], settings: NotificationsSettings) -> list[Answer]:
    """Send mails over one connection. Whatever happens to it, each mail gets an answer."""
    client = aiosmtplib.SMTP(
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        timeout=EXCHANGE_TIMEOUT_S,
        use_tls=settings.smtp_security == "tls",
        start_tls=settings.smtp_security == "starttls",
        username=settings.smtp_username,
        password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
    )
    answers = []
    # The lease outlasts the round: no mail is begun in its second half, and each may take a quarter of it.
    deadline = asyncio.get_running_loop().time() + settings.mail_lease_s / 2
    for mail in due:
        late = asyncio.get_running_loop().time() > deadline
        answers.append(Answer(mail, False, False, "out of time") if late else await _attempt(client, mail, settings))
    client.close()
    return answers


async def _attempt(client: aiosmtplib.SMTP, mail: Due, settings: NotificationsSettings) -> Answer:
    handed_over = False
    try:
        async with asyncio.timeout(settings.mail_lease_s / 4):
            if not client.is_connected:
                await client.connect()
            handed_over = True
            options = [] if mail.recipient.isascii() else ["SMTPUTF8"]
            _, text = await client.sendmail(settings.mail_from, [mail.recipient], mail.rendered, mail_options=options)
        return Answer(mail, True, True, text)
    except (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused) as error:
        code = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else error.recipients[0].code
        # Before the mail was mentioned (greeting, login), a refusal is due to the server or us, not to the mail.
        return Answer(mail, False, handed_over and 500 <= code < 600, f"{code}")  # the text may quote the address
    except (aiosmtplib.SMTPNotSupported, ValueError) as error:  # the server, or nobody, can write to such an address
        return Answer(mail, False, True, type(error).__name__)
    except (aiosmtplib.SMTPException, OSError) as error:  # TimeoutError is one
        client.close()
        return Answer(mail, False, False, type(error).__name__, uncertain=handed_over)


async def _record(
    connection: AsyncConnection, answers: Sequence[Answer], settings: NotificationsSettings, now: datetime
) -> list[Answer]:
    """Record the server's answers, and return those that counted. A finished mail loses its text and its address.

    The mails are locked first, in the order of their ids, as erasing people does. The number of the attempt is the
    lease's fence: a sender that was paused until another took the mail must not end the other's attempt.
    """
    ids = [answer.mail.id for answer in answers]
    await connection.execute(_LOCK, {"p_ids": ids})
    attempts = {row.mail_id: row.attempts for row in await connection.execute(_ATTEMPTS, {"p_ids": ids})}
    answers = [answer for answer in answers if attempts.get(answer.mail.id) == answer.mail.attempts]
    ends: list[dict[str, Any]] = []
    pauses: list[dict[str, Any]] = []
    for answer in answers:
        mail, said = answer.mail, {"p_id": answer.mail.id, "p_answer": _storable(answer.text)}
        if answer.final:
            state = MailState.SENT if answer.sent else MailState.REFUSED
            ends.append(said | {"p_state": state.value, "p_sent_at": now if answer.sent else None})
            continue
        pause = settings.mail_backoff_s[min(mail.attempts, len(settings.mail_backoff_s)) - 1]
        pauses.append(said | {"p_next": now + timedelta(seconds=pause), "p_uncertain": int(answer.uncertain)})
    if ends:
        await connection.execute(_ENDED, ends)
        await connection.execute(_DONE, ends)
    if pauses:
        await connection.execute(_PUT_OFF, pauses)
        await connection.execute(_LATER, pauses)
    return answers


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
_ATTEMPTS = sa.select(deliveries.c.mail_id, deliveries.c.attempts).where(deliveries.c.mail_id == _ids)
_GONE = sa.select(erased.c.id).where(erased.c.id == _ids)
_DROP = sa.update(mails).values(state=sa.bindparam("p_state"), params={}).where(mails.c.id == _ids)
_LEASE = (
    sa.update(mails)
    .values(state=MailState.RENDERED.value, next_attempt_at=sa.bindparam("p_until"))
    .where(mails.c.id == _ids)
)
_new = insert(deliveries)
_TAKE_OFF = _new.on_conflict_do_update(
    index_elements=["mail_id"],
    set_={name: _new.excluded[name] for name in ("rendered", "recipient", "attempts", "in_flight_since", "uncertain")},
)
_none_yet = insert(deliveries).values(
    mail_id=sa.bindparam("p_id"), attempts=0, uncertain=0, last_answer=sa.bindparam("p_code")
)
_NOTE = _none_yet.on_conflict_do_update(
    index_elements=["mail_id"], set_={"last_answer": _none_yet.excluded.last_answer}
)

# One row of parameters per mail: psycopg sends them in one pipeline.
_heard = sa.update(deliveries).where(deliveries.c.mail_id == sa.bindparam("p_id"))
_heard = _heard.values(in_flight_since=None, last_answer=sa.bindparam("p_answer"))
_ENDED = _heard.values(rendered=None, recipient=None, sent_at=sa.bindparam("p_sent_at"))
_PUT_OFF = _heard.values(uncertain=deliveries.c.uncertain + sa.bindparam("p_uncertain"))
_this = sa.update(mails).where(mails.c.id == sa.bindparam("p_id"))
# What was erased meanwhile, or has already bounced, stays so.
_DONE = _this.values(state=sa.bindparam("p_state"), params={}).where(mails.c.state == MailState.RENDERED.value)
_PARK = _this.values(state=MailState.PARKED.value)
_LATER = _this.values(next_attempt_at=sa.bindparam("p_next"))
