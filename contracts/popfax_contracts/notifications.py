"""Messages to people: what notifications is asked, and what it tells the other services about them."""

from datetime import date
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from popfax_contracts.codes import NotificationsCode
from popfax_contracts.fields import Keyword, StoredName, Timestamp, Units
from popfax_contracts.message import Command, Event, MalformedCommand, Refusal
from popfax_contracts.topics import NOTIFICATIONS_COMMANDS, NOTIFICATIONS_COMMANDS_FROM_GROUPS, NOTIFICATIONS_EVENTS

Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A secret of 32 random bytes, in hexadecimal. Whoever checks it stores only its SHA-256."""


class SendInvitation(
    Command,
    type="popfax.notifications.send-invitation.v1",
    topic=NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    key="invitation_id",
    answers=(),
):
    """Write to a subscriber who is invited into a group. `round` counts the mails of this invitation, from 1.

    A `MailUndeliverable` follows if the mail comes back. This is the only message that carries the token.
    """

    invitation_id: UUID
    round: Annotated[int, Field(strict=True, ge=1)]
    recipient_id: UUID
    owner_id: UUID
    group_name: StoredName | None
    token: Token
    expires_at: Timestamp


MAX_NAMED = 50
"""The most members that one mail names. Of the others it says how many they are."""


class SendMembersLow(
    Command,
    type="popfax.notifications.send-members-low.v1",
    topic=NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    key="group_id",
    answers=(),
):
    """Write to an owner which members of their group have fewer than `below_units` units now, and had more before.

    There is one at most for a group and a `day` of its owner's: the same day again is the same mail. Those with the
    fewest units are in `members`; `more` counts the others.
    """

    group_id: UUID
    owner_id: UUID
    day: date
    below_units: Units
    members: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_NAMED)]
    more: Annotated[int, Field(strict=True, ge=0)] = 0


class MailUndeliverable(
    Event, type="popfax.notifications.mail-undeliverable.v1", topic=NOTIFICATIONS_EVENTS, key="mail_id"
):
    """A mail came back. `invitation_id` and `round` are an invitation's; they are None for any other mail."""

    mail_id: UUID
    recipient_id: UUID
    reason: Keyword
    invitation_id: UUID | None = None
    round: int | None = None


class BounceRefused(Refusal, type="popfax.notifications.bounce-refused.v1", topic=NOTIFICATIONS_EVENTS, key="mail_id"):
    """No such mail was ever written."""

    mail_id: UUID


class MailBounced(
    Command,
    type="popfax.notifications.mail-bounced.v1",
    topic=NOTIFICATIONS_COMMANDS,
    key="mail_id",
    answers=(MailUndeliverable,),
    refusal=BounceRefused,
    codes=(NotificationsCode.UNKNOWN_MAIL,),
):
    """Say that a mail came back to the platform's mail server. `mail_id` is the left part of its Message-ID."""

    mail_id: UUID
    reason: Keyword


class PasswordLinkIssued(
    Event, type="popfax.notifications.password-link-issued.v1", topic=NOTIFICATIONS_EVENTS, key="member_id"
):
    """A new member was sent a link to choose a password with. It works once, until `expires_at`.

    The link's token is in the mail alone. The platform, which serves the page behind the link, knows it by its SHA-256
    (in hexadecimal).
    """

    member_id: UUID
    token_sha256: str
    expires_at: Timestamp


class NotificationsCommandMalformed(
    MalformedCommand, type="popfax.notifications.command-malformed.v1", topic=NOTIFICATIONS_EVENTS, key="parked_id"
):
    """A command to notifications could not be read."""


NotificationsCommand = SendInvitation | SendMembersLow | MailBounced
NotificationsEvent = PasswordLinkIssued | MailUndeliverable | BounceRefused | NotificationsCommandMalformed
