"""Messages to people: what notifications tells the others of them. No command brings it a mail yet."""

from datetime import datetime
from uuid import UUID

from contracts.message import Event, MalformedCommand
from contracts.topics import NOTIFICATIONS_EVENTS


class PasswordLinkIssued(
    Event, type="popfax.notifications.password-link-issued.v1", topic=NOTIFICATIONS_EVENTS, key="member_id"
):
    """A new member was sent a link to choose a password, good once and until `expires_at`.

    The link's token is in the mail alone; the platform, which serves the page, knows it by its SHA-256 (hexadecimal).
    """

    member_id: UUID
    token_sha256: str
    expires_at: datetime


class NotificationsCommandMalformed(
    MalformedCommand, type="popfax.notifications.command-malformed.v1", topic=NOTIFICATIONS_EVENTS, key="command_id"
):
    """A command on `popfax.notifications.commands` could not be read."""


NotificationsEvent = PasswordLinkIssued | NotificationsCommandMalformed
