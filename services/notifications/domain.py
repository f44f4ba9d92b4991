"""Mails: what is to be told to whom, and how far it has got."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

PASSWORD_LINK_LIFETIME = timedelta(days=7)
"""How long the link in a welcome mail is good for."""


class Template(StrEnum):
    """The mails that we write."""

    WELCOME = "welcome"
    RECEIPT = "receipt"


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


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to one person, perhaps about another (`about_id`). Its id, and so its Message-ID, follows from a cause."""

    id: UUID
    template: Template
    recipient_id: UUID
    about_id: UUID | None
    params: dict[str, Any]
    state: MailState
    made_at: datetime
    next_attempt_at: datetime


@dataclass(frozen=True, slots=True)
class Person:
    """Who somebody is, as the directory has them."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    language: str
    fax_number: str | None
