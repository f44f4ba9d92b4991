"""What groups tells itself, later: the messages of its timers."""

from uuid import UUID

from contracts.message import Message


class InvitationDue(Message, type="popfax.groups.invitation-due", key="invitation_id"):
    """An invitation's time is up, unless it was renewed or has ended meanwhile."""

    invitation_id: UUID
