"""The sender: renders mails, commits them, sends them, and records what the server said.

A mail's bytes are committed before the server is spoken to, with a Message-ID that follows from the mail's cause, so every
attempt sends the same. A crash between the server's answer and our record leaves `in_flight_since` behind: whether that
mail arrived can't be known, so it is counted and shown as uncertain, and sent again under the same Message-ID, by which a
mail server or client can tell that it is one mail.
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
from sqlalchemy.dialects.postgresql import insert
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

LEASE = timedelta(minutes=2)
"""How long a mail is left to who is sending it. Longer than a round can take: every exchange is bounded."""

BACKOFF = (5, 30, 120, 600, 1800, 3600)
"""Seconds before the next attempt, the last one for all that follow."""

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
    """What came of an attempt. `final` is False for what is worth another."""

    mail: Due
    sent: bool
    final: bool
    text: str


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
            await _record(connection, answers, datetime.now(UTC))
    return len(due)


async def _take(connection: AsyncConnection, settings: NotificationsSettings, now: datetime) -> list[Due]:
    """Take the mails whose turn it is and whose people are known; render the new ones; mark all as in flight."""
    taken = []
    for row in (await connection.execute(_DUE, {"now": now, "at_once": settings.mails_at_once})).all():
        mail = Due(row.id, row.recipient or row.email, row.rendered or render(row, settings), (row.attempts or 0) + 1)
        if row.in_flight_since is not None:
            UNCERTAIN.inc()
            log.warning("mail_uncertain", mail_id=str(row.id), template=row.template, since=str(row.in_flight_since))
        flight = {
            "rendered": mail.rendered,
            "recipient": mail.recipient,
            "attempts": mail.attempts,
            "in_flight_since": now,
            "uncertain": (row.uncertain or 0) + (row.in_flight_since is not None),
        }
        upsert = insert(deliveries).values(mail_id=row.id, **flight)
        await connection.execute(upsert.on_conflict_do_update(index_elements=["mail_id"], set_=flight))
        taken.append(mail)
    if taken:
        leased = {"state": MailState.RENDERED.value, "next_attempt_at": now + LEASE}
        await connection.execute(sa.update(mails).values(leased).where(mails.c.id.in_([mail.id for mail in taken])))
    return taken


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
    deadline = asyncio.get_running_loop().time() + LEASE.total_seconds() / 2
    for mail in due:
        late = asyncio.get_running_loop().time() > deadline
        answers.append(Answer(mail, False, False, "out of time") if late else await _attempt(client, mail, settings))
    client.close()
    return answers


async def _attempt(client: aiosmtplib.SMTP, mail: Due, settings: NotificationsSettings) -> Answer:
    try:
        if not client.is_connected:
            await client.connect()
        _, text = await client.sendmail(settings.mail_from, [mail.recipient], mail.rendered)
        return Answer(mail, True, True, text)
    except (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused) as error:
        code = error.code if isinstance(error, aiosmtplib.SMTPResponseException) else error.recipients[0].code
        return Answer(mail, False, 500 <= code < 600, f"{code}")  # the text may quote the address
    except (aiosmtplib.SMTPException, OSError) as error:
        client.close()
        return Answer(mail, False, False, type(error).__name__)


async def _record(connection: AsyncConnection, answers: Sequence[Answer], now: datetime) -> None:
    """Write down what the server said. A mail that is done loses its text, its address and its token."""
    for answer in answers:
        mail = answer.mail
        delivery: dict[str, Any] = {"in_flight_since": None, "last_answer": answer.text[:200]}
        changed: dict[str, Any]
        if answer.final:
            (SENT if answer.sent else REFUSED).inc()
            changed = {"state": (MailState.SENT if answer.sent else MailState.REFUSED).value, "params": {}}
            delivery |= {"rendered": None, "recipient": None, "sent_at": now if answer.sent else None}
        else:
            RETRIED.inc()
            pause = BACKOFF[min(mail.attempts, len(BACKOFF)) - 1]
            changed = {"next_attempt_at": now + timedelta(seconds=pause)}
            log.info("mail_put_off", mail_id=str(mail.id), answer=answer.text[:3], retry_in_s=pause)
        await connection.execute(sa.update(deliveries).values(delivery).where(deliveries.c.mail_id == mail.id))
        await connection.execute(sa.update(mails).values(changed).where(mails.c.id == mail.id))


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
