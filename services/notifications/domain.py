"""Mails: what is to be told to whom, and how far it has got."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

PASSWORD_LINK_LIFETIME = timedelta(days=7)
"""How long the link in a welcome mail is good for."""

STUCK_AFTER = timedelta(hours=1)
"""A mail that waits longer for somebody's record is shown as stuck, and the audit finds it."""

SUBJECT_WAIT = timedelta(days=1)
"""So long a mail waits for the record of whom it is about. Then it goes out and names nobody."""

RECIPIENT_WAIT = timedelta(days=7)
"""So long a mail waits for its recipient's record. Then it is abandoned: no link in a mail is good for longer."""


class Template(StrEnum):
    """The mails that we write. Each has its source of that name under `templates/`."""

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
    """To the owner whose member is one no longer."""
    EXPIRING = "expiring"
    EXPIRED = "expired"
    EXTENDED = "extended"


class MailState(StrEnum):
    """How far a mail has got."""

    QUEUED = "queued"
    """Committed for sending. It waits for its turn, and for the records of the people that it speaks of."""
    RENDERED = "rendered"
    """Its bytes are committed; between the first attempt and the last."""
    SENT = "sent"
    """The mail server took it. Text, address and token are erased."""
    REFUSED = "refused"
    """The mail server refused it for good."""
    BOUNCED = "bounced"
    """It came back."""
    PARKED = "parked"
    """Its bytes could not be made, or did not say what was meant: never sent, and kept for an operator."""
    ABANDONED = "abandoned"
    """Nobody was known under its recipient's id for as long as it waits. Its parameters, and any token, are erased."""
    ERASED = "erased"
    """Its recipient's account was closed before the mail was done with."""


WAITING = frozenset({MailState.QUEUED, MailState.RENDERED})
"""What the sender still has to do with."""

UNDONE = WAITING | {MailState.PARKED}
"""What may still be sent."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person, perhaps about another (`about_id`). Its id, and so its Message-ID, follows from a fact.

    `invitation_id` and `round` are those of an invitation; unlike `params`, they outlast its end.
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


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the sender wrote down of a mail. The handlers take text and address away, and leave the rest to it."""

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
    """Who somebody is, as the directory has them."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    language: str
    fax_number: str | None


@dataclass(frozen=True, slots=True)
class Erased:
    """Somebody whom nobody knows any more: nothing is written to them, and mails about them name nobody."""

    id: UUID
