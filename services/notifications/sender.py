"""The sender: renders mails, commits them, sends them, and records what the server said.

A mail's bytes are committed before the server is spoken to, with a Message-ID that follows from the mail's cause, so
every attempt sends the same. A crash between the server's answer and our record leaves `in_flight_since` behind:
whether that mail arrived can't be known, and as little when the connection breaks before the answer. So it is counted
and shown as uncertain, and sent again under the same Message-ID, by which a mail server or client can tell that it is
one mail.
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

from services.notifications.domain import MailState
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import deliveries, mails, people

log = structlog.get_logger(__name__)

SENT = Counter("popfax_mails_sent_total", "Mails that the mail server took")
REFUSED = Counter("popfax_mails_refused_total", "Mails that the mail server refused for good")
RETRIED = Counter("popfax_mails_retried_total", "Attempts that the mail server put off, or that found it away")
UNCERTAIN = Counter("popfax_mails_uncertain_total", "Mails sent again because a crash hid the server's answer")

EXCHANGE_TIMEOUT_S = 20.0


@dataclass(slots=True)
class Due:
    """A mail whose turn it is."""

    id: UUID
    recipient: str
    rendered: bytes
    attempts: int


@dataclass(slots=True)
class Answer:
    """What came of an attempt. `final` is False for what is worth another.

    `uncertain` is True when the server was given the mail and its answer was not heard.
    """

    mail: Due
    sent: bool
    final: bool
    text: str
    uncertain: bool = False


async def send_mails(engine: AsyncEngine, settings: NotificationsSettings) -> None:
    """Send mails until cancelled."""
    while True:
        try:
            found = await send_due(engine, settings)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("mails_not_sent", error=type(error).__name__)
            found = 0
        if not found:
            await asyncio.sleep(settings.mail_poll_s)


async def send_due(engine: AsyncEngine, settings: NotificationsSettings) -> int:
    """Do one round; give how many mails it took on."""
    async with engine.begin() as connection:
        due = await _take(connection, settings, datetime.now(UTC))
    if due:
        answers = await _deliver(due, settings)
        async with engine.begin() as connection:
            await _record(connection, answers, settings, datetime.now(UTC))
    return len(due)


async def _take(connection: AsyncConnection, settings: NotificationsSettings, now: datetime) -> list[Due]:
    """Take the mails whose turn it is and whose people are known; render the new ones; mark all as in flight."""
    rows = (await connection.execute(_DUE, {"now": now, "at_once": settings.mails_at_once})).all()
    taken: list[Due] = []
    flights: list[dict[str, Any]] = []
    for row in rows:
        rendered = row.rendered or _rendered(row, settings)
        if rendered is None:
            continue  # its lease is its pause: the others go out
        mail = Due(row.id, row.recipient or row.email, rendered, (row.attempts or 0) + 1)
        if row.in_flight_since is not None:
            _uncertain(row.id)
        flights.append(
            {
                "mail_id": mail.id,
                "rendered": mail.rendered,
                "recipient": mail.recipient,
                "attempts": mail.attempts,
                "in_flight_since": now,
                "uncertain": (row.uncertain or 0) + (row.in_flight_since is not None),
            }
        )
        taken.append(mail)
    if rows:
        until = now + timedelta(seconds=settings.mail_lease_s)
        await connection.execute(_LEASE, {"p_ids": [row.id for row in rows], "p_until": until})
    if flights:
        await connection.execute(_TAKE_OFF, flights)
    return taken


def _rendered(row: Any, settings: NotificationsSettings) -> bytes | None:
    """Give a mail's bytes; None, and a line in the log, for one that can't be made: a bug of ours, and of one mail."""
    try:
        return render(row, settings)
    except Exception as error:
        log.error("mail_not_rendered", mail_id=str(row.id), template=row.template, error=type(error).__name__)
        return None


def _uncertain(mail_id: UUID) -> None:
    UNCERTAIN.inc()
    log.warning("mail_uncertain", mail_id=str(mail_id))


async def _deliver(due: Sequence[Due], settings: NotificationsSettings) -> list[Answer]:
    """Hand mails to the server over one connection. Whatever happens to it, each mail gets its answer."""
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
    # The lease outlasts the round: none is begun in its second half, and each is bounded by a quarter of it.
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
        # Before the mail was spoken of (the greeting, the login), a refusal is the server's or ours, not the mail's.
        return Answer(mail, False, handed_over and 500 <= code < 600, f"{code}")  # the text may quote the address
    except (aiosmtplib.SMTPNotSupported, ValueError) as error:  # the server, or nobody, can write to such an address
        return Answer(mail, False, True, type(error).__name__)
    except (aiosmtplib.SMTPException, OSError) as error:  # TimeoutError is one
        client.close()
        return Answer(mail, False, False, type(error).__name__, uncertain=handed_over)


async def _record(
    connection: AsyncConnection, answers: Sequence[Answer], settings: NotificationsSettings, now: datetime
) -> None:
    """Write down what the server said. A mail that is done loses its text, its address and its token."""
    ends: list[dict[str, Any]] = []
    pauses: list[dict[str, Any]] = []
    for answer in answers:
        mail, said = answer.mail, {"p_id": answer.mail.id, "p_answer": answer.text[:200]}
        if answer.final:
            (SENT if answer.sent else REFUSED).inc()
            state = MailState.SENT if answer.sent else MailState.REFUSED
            ends.append(said | {"p_state": state.value, "p_sent_at": now if answer.sent else None})
            continue
        RETRIED.inc()
        if answer.uncertain:
            _uncertain(mail.id)
        pause = settings.mail_backoff_s[min(mail.attempts, len(settings.mail_backoff_s)) - 1]
        log.info("mail_put_off", mail_id=str(mail.id), answer=answer.text, retry_in_s=pause)
        pauses.append(said | {"p_next": now + timedelta(seconds=pause), "p_uncertain": int(answer.uncertain)})
    if ends:
        await connection.execute(_ENDED, ends)
        await connection.execute(_ERASED, ends)
    if pauses:
        await connection.execute(_PUT_OFF, pauses)
        await connection.execute(_LATER, pauses)


_about = people.alias("about")
_DUE = (
    sa.select(
        mails,
        people.c.email,
        people.c.first_name,
        people.c.last_name,
        people.c.language,
        people.c.fax_number,
        _about.c.first_name.label("about_first_name"),
        _about.c.last_name.label("about_last_name"),
        _about.c.email.label("about_email"),
        deliveries.c.rendered,
        deliveries.c.recipient,
        deliveries.c.attempts,
        deliveries.c.in_flight_since,
        deliveries.c.uncertain,
    )
    .join(people, people.c.id == mails.c.recipient_id)
    .outerjoin(_about, _about.c.id == mails.c.about_id)
    .outerjoin(deliveries, deliveries.c.mail_id == mails.c.id)
    .where(
        mails.c.state.in_([MailState.QUEUED.value, MailState.RENDERED.value]),
        mails.c.next_attempt_at <= sa.bindparam("now"),
        sa.or_(mails.c.about_id.is_(None), _about.c.id.is_not(None)),
    )
    .order_by(mails.c.next_attempt_at)
    .limit(sa.bindparam("at_once"))
    .with_for_update(of=mails, skip_locked=True)
)

_LEASE = (
    sa.update(mails)
    .values(state=MailState.RENDERED.value, next_attempt_at=sa.bindparam("p_until"))
    .where(mails.c.id == sa.any_(sa.bindparam("p_ids", type_=ARRAY(sa.Uuid))))
)
_new = insert(deliveries)
_TAKE_OFF = _new.on_conflict_do_update(
    index_elements=["mail_id"],
    set_={name: _new.excluded[name] for name in ("rendered", "recipient", "attempts", "in_flight_since", "uncertain")},
)

# One row of parameters a mail: psycopg sends them in one pipeline.
_heard = sa.update(deliveries).where(deliveries.c.mail_id == sa.bindparam("p_id"))
_heard = _heard.values(in_flight_since=None, last_answer=sa.bindparam("p_answer"))
_ENDED = _heard.values(rendered=None, recipient=None, sent_at=sa.bindparam("p_sent_at"))
_PUT_OFF = _heard.values(uncertain=deliveries.c.uncertain + sa.bindparam("p_uncertain"))
_this = sa.update(mails).where(mails.c.id == sa.bindparam("p_id"))
_ERASED = _this.values(state=sa.bindparam("p_state"), params={})
_LATER = _this.values(next_attempt_at=sa.bindparam("p_next"))
