"""Messages to people: what notifications is asked, and what it tells the others of them."""

from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from popfax_contracts.fields import Keyword, StoredName, Timestamp
from popfax_contracts.message import Command, Event, MalformedCommand, Refusal
from popfax_contracts.topics import NOTIFICATIONS_COMMANDS, NOTIFICATIONS_COMMANDS_FROM_GROUPS, NOTIFICATIONS_EVENTS

Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A secret of 32 random bytes, in hexadecimal. Whoever checks it keeps its SHA-256 alone."""


class SendInvitation(
    Command,
    type="popfax.notifications.send-invitation.v1",
    topic=NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    key="invitation_id",
):
    """Write to a subscriber who is invited into a group. `round` counts the mails of this invitation, from 1.

    Nothing answers it; `MailUndeliverable` tells if it came back. It carries the token: no other topic ever does.
    """

    invitation_id: UUID
    round: Annotated[int, Field(strict=True, ge=1)]
    recipient_id: UUID
    owner_id: UUID
    group_name: StoredName | None
    token: Token
    expires_at: Timestamp


class MailBounced(Command, type="popfax.notifications.mail-bounced.v1", topic=NOTIFICATIONS_COMMANDS, key="mail_id"):
    """The platform's mail server got a mail back. `mail_id` is the left part of its Message-ID.

    Answered by `MailUndeliverable`; refused by `BounceRefused` with `unknown_mail`.
    """

    mail_id: UUID
    reason: Keyword


class MailUndeliverable(
    Event, type="popfax.notifications.mail-undeliverable.v1", topic=NOTIFICATIONS_EVENTS, key="mail_id"
):
    """A mail came back. `invitation_id` and `round` are those of an invitation, None for any other mail."""

    mail_id: UUID
    recipient_id: UUID
    reason: Keyword
    invitation_id: UUID | None = None
    round: int | None = None


class BounceRefused(Refusal, type="popfax.notifications.bounce-refused.v1", topic=NOTIFICATIONS_EVENTS, key="mail_id"):
    """No such mail was ever written: `unknown_mail`."""

    mail_id: UUID


class PasswordLinkIssued(
    Event, type="popfax.notifications.password-link-issued.v1", topic=NOTIFICATIONS_EVENTS, key="member_id"
):
    """A new member was sent a link to choose a password, good once and until `expires_at`.

    The link's token is in the mail alone; the platform, which serves the page, knows it by its SHA-256 (hexadecimal).
    """

    member_id: UUID
    token_sha256: str
    expires_at: Timestamp


class NotificationsCommandMalformed(
    MalformedCommand, type="popfax.notifications.command-malformed.v1", topic=NOTIFICATIONS_EVENTS, key="parked_id"
):
    """A command to notifications could not be read."""


NotificationsCommand = SendInvitation | MailBounced
NotificationsEvent = PasswordLinkIssued | MailUndeliverable | BounceRefused | NotificationsCommandMalformed
