"""Mails: to whom, about what, and how far each has got."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

PASSWORD_LINK_LIFETIME = timedelta(days=7)
"""How long the link in a welcome mail is valid."""

STUCK_AFTER = timedelta(hours=1)
"""A mail that waits longer for somebody's record is shown as stuck, and the audit finds it."""

SUBJECT_WAIT = timedelta(days=1)
"""How long a mail waits for the records of the people it is about, or names. Then it is sent without their names."""

RECIPIENT_WAIT = timedelta(days=7)
"""How long a mail waits for its recipient's record. Then it is abandoned: no link in a mail is valid for longer."""


class Template(StrEnum):
    """The kinds of mail. Each has its source of that name under `templates/`."""

    WELCOME = "welcome"
    RECEIPT = "receipt"
    INVITATION = "invitation"
    INVITATION_ACCEPTED = "invitation_accepted"
    INVITATION_DECLINED = "invitation_declined"
    INVITATION_EXPIRED = "invitation_expired"
    UNITS_RECEIVED = "units_received"
    TRANSFER_RECEIPT = "transfer_receipt"
    DETACHED = "detached"
    """To the member whose membership ended."""
    MEMBER_LEFT = "member_left"
    """To the owner of the group that the member has left."""
    ORDER_PAUSED = "order_paused"
    """To the owner whose standing orders wait."""
    EXPIRING = "expiring"
    EXPIRED = "expired"
    EXTENDED = "extended"
    MEMBERS_LOW = "members_low"
    """To the owner whose members have few units."""
    PAID_FOR_YOU = "paid_for_you"
    """To the member whose account the owner of a group has extended, or given the options pack."""
    PAYING_RECEIPT = "paying_receipt"
    """To the owner who has paid for it."""


class MailState(StrEnum):
    """How far a mail has got."""

    QUEUED = "queued"
    """Committed for sending. It waits for its turn, and for the records of the people it mentions."""
    RENDERED = "rendered"
    """Its bytes are committed; between the first attempt and the last."""
    SENT = "sent"
    """The mail server accepted it. Text, address and token are erased."""
    REFUSED = "refused"
    """The mail server refused it for good."""
    BOUNCED = "bounced"
    """It came back."""
    PARKED = "parked"
    """It could not be rendered, or not as intended: never sent, and kept for an operator."""
    ABANDONED = "abandoned"
    """Its recipient's record never arrived. Its parameters, and any token, are erased."""
    ERASED = "erased"
    """Its recipient's account was closed before it was sent, or while it was: its `sent_at` tells."""


WAITING = frozenset({MailState.QUEUED, MailState.RENDERED})
"""Mails that the sender still has to deal with."""

UNDONE = WAITING | {MailState.PARKED}
"""Mails that may still be sent."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person, perhaps about another (`about_id`).

    Its id, and so its Message-ID, follows from what it reports. `traceparent` is the trace's that it belongs to.

    `invitation_id` and `round` are those of an invitation; unlike `params`, they are kept after it has been sent.
    """

    id: UUID
    template: Template
    recipient_id: UUID
    about_id: UUID | None
    params: dict[str, Any]
    state: MailState
    made_at: datetime
    next_attempt_at: datetime
    invitation_id: UUID | None = None
    round: int | None = None
    traceparent: str | None = None


def named_in(params: Mapping[str, Any]) -> list[tuple[UUID, int | None]]:
    """Return whom a mail names besides `about_id`, each with what it says of their units, if it says anything."""
    return [(UUID(id_), units) for id_, units in params.get("named", ())]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the sender recorded about a mail. Handlers may erase text and address; the rest is the sender's."""

    mail_id: UUID
    rendered: bytes | None
    recipient: str | None
    attempts: int
    in_flight_since: datetime | None
    uncertain: int
    last_answer: str | None
    sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Person:
    """A person's record from the directory."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    language: str
    fax_number: str | None
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """An erased person: nothing is sent to them, and mails about them carry no name."""

    id: UUID
