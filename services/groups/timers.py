"""The messages of groups' timers."""

from uuid import UUID

from popfax_contracts.message import Message


class InvitationDue(Message, type="popfax.groups.invitation-due", key="invitation_id"):
    """An invitation's time is up, unless it was renewed or has ended meanwhile."""

    invitation_id: UUID


class TransferDue(Message, type="popfax.groups.transfer-due", key="transfer_id"):
    """The ledger should have answered by now; unless it has, it is asked again."""

    transfer_id: UUID


class RetryTransfer(Message, type="popfax.groups.retry-transfer", key="transfer_id"):
    """An operator's message: ask the ledger again now. It repeats its answer."""

    transfer_id: UUID
