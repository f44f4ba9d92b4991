"""Which mails an event calls for: to whom, about whom, with which parameters.

A mail's id follows from what it reports, not from the message: an event reported twice leads to one mail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    MemberPaidFor,
    StandingOrderPaused,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.ids import derive
from popfax_contracts.message import Message
from popfax_contracts.notifications import MAX_NAMED, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, AccountExtended
from services.notifications.domain import Template

_MAILS = UUID("c3f7a1de-5b1c-5e0a-9d43-2f7f6d0b8a15")


@dataclass(slots=True)
class Letter:
    """A mail that an event calls for.

    `fact` distinguishes what it reports from everything else reported with its template.
    """

    template: Template
    fact: str
    recipient_id: UUID
    about_id: UUID | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    invitation_id: UUID | None = None
    round: int | None = None

    @property
    def id(self) -> UUID:
        """Return the mail's id."""
        return derive(_MAILS, f"{self.template}/{self.fact}/{self.recipient_id}")


def letters(message: Message) -> Sequence[Letter]:
    """Return the mails that a message calls for; for most messages, none."""
    write = _LETTERS.get(type(message))
    return write(message) if write else ()


def _send_invitation(command: SendInvitation) -> Sequence[Letter]:
    params = {
        "group_name": command.group_name,
        "invitation_id": str(command.invitation_id),
        "token": command.token,
        "expires_at": _stamp(command.expires_at),
    }
    return [
        Letter(
            Template.INVITATION,
            f"{command.invitation_id}/{command.round}",
            command.recipient_id,
            command.owner_id,
            params,
            command.invitation_id,
            command.round,
        )
    ]


def _invitation_accepted(event: InvitationAccepted) -> Sequence[Letter]:
    return [Letter(Template.INVITATION_ACCEPTED, str(event.invitation_id), event.owner_id, event.subscriber_id)]


def _invitation_declined(event: InvitationDeclined) -> Sequence[Letter]:
    return [Letter(Template.INVITATION_DECLINED, str(event.invitation_id), event.owner_id, event.subscriber_id)]


def _invitation_expired(event: InvitationExpired) -> Sequence[Letter]:
    return [Letter(Template.INVITATION_EXPIRED, str(event.invitation_id), event.owner_id, event.subscriber_id)]


def _member_account_created(event: MemberAccountCreated) -> Sequence[Letter]:
    """Return the welcome mail, whose link is made when it is rendered, since it is secret; and the owner's receipt."""
    paid_for = str(event.request_id or event.member_id)
    receipt = {"reference": paid_for, "plan": event.plan, "price_units": event.price_units}
    fact = str(event.member_id)
    return [
        Letter(Template.WELCOME, fact, event.member_id, event.owner_id, {"plan": event.plan}),
        Letter(Template.RECEIPT, fact, event.owner_id, event.member_id, receipt),
    ]


def _member_left(event: MemberLeft) -> Sequence[Letter]:
    """Return the mails about the end, none to a person whose account was closed: who they were is erased."""
    fact, params = f"{event.group_id}/{event.epoch}/{event.member_id}", {"via": event.via}
    to_member = Letter(Template.DETACHED, fact, event.member_id, event.owner_id, params)
    to_owner = Letter(Template.MEMBER_LEFT, fact, event.owner_id, event.member_id, params)
    if event.via == "account_closed":
        return [to_owner]
    if event.via == "group_closed":
        return [to_member]
    return [to_member, to_owner]


def _units_received(event: UnitsReceived) -> Sequence[Letter]:
    params = {"reference": str(event.transfer_id), "amount_units": event.amount_units}
    return [Letter(Template.UNITS_RECEIVED, str(event.transfer_id), event.member_id, event.owner_id, params)]


def _standing_order_paused(event: StandingOrderPaused) -> Sequence[Letter]:
    """Return one mail a day, however many orders are paused: on the first of a month it may be all of them."""
    if event.reason not in ("units_short", "account_expired"):
        return ()
    fact = f"{event.group_id}/{event.paused_at.astimezone(UTC):%Y-%m-%d}"
    return [Letter(Template.ORDER_PAUSED, fact, event.owner_id, None, {"reason": event.reason})]


def _units_transferred(event: UnitsTransferred) -> Sequence[Letter]:
    """Return the receipt, which names those who got units, if they are not too many.

    What a standing order has begun stands in the history alone: nobody is waiting for it.
    """
    if event.order_id is not None:
        return ()
    given = [leg for leg in event.legs if leg.amount_units > 0]
    got = len(given)
    params = {
        "reference": str(event.transfer_id),
        "named": [[str(leg.member_id), leg.amount_units] for leg in given[:MAX_NAMED]],
        "more": len(given[MAX_NAMED:]),
        "mode": event.mode,
        "amount_units": event.amount_units,
        "total_units": event.total_units,
        "got": got,
        "had": len(event.legs) - got,
    }
    return [Letter(Template.TRANSFER_RECEIPT, str(event.transfer_id), event.owner_id, None, params)]


def _members_low(command: SendMembersLow) -> Sequence[Letter]:
    params = {
        "below_units": command.below_units,
        "count": len(command.members) + command.more,
        "named": [[str(member_id), None] for member_id in command.members],
        "more": command.more,
    }
    return [Letter(Template.MEMBERS_LOW, f"{command.group_id}/{command.day}", command.owner_id, None, params)]


def _account_expiring(event: AccountExpiring) -> Sequence[Letter]:
    if event.late:
        return ()
    ends = _stamp(event.expires_at)
    params = {"days": event.days, "expires_at": ends}
    return [Letter(Template.EXPIRING, f"{ends}/{event.days}", event.account_id, None, params)]


def _account_expired(event: AccountExpired) -> Sequence[Letter]:
    ended = _stamp(event.expires_at)
    return [Letter(Template.EXPIRED, ended, event.account_id, None, {"expires_at": ended})]


def _account_extended(event: AccountExtended) -> Sequence[Letter]:
    """Return the mail to a holder who has paid themselves. Who was paid for is told of that, once it is paid."""
    if event.paid_by is not None:
        return ()
    params = {
        "reference": str(event.request_id),
        "expires_at": _stamp(event.expires_at),
        "price_units": event.price_units,
    }
    return [Letter(Template.EXTENDED, str(event.request_id), event.account_id, None, params)]


def _member_paid_for(event: MemberPaidFor) -> Sequence[Letter]:
    """Return the member's mail, which tells who has paid and not how much, and the owner's receipt."""
    fact, ends = str(event.payment_id), event.expires_at and _stamp(event.expires_at)
    what = {"reference": fact, "action": event.action, "expires_at": ends}
    receipt = {**what, "price_units": event.price_units}
    return [
        Letter(Template.PAID_FOR_YOU, fact, event.member_id, event.owner_id, what),
        Letter(Template.PAYING_RECEIPT, fact, event.owner_id, event.member_id, receipt),
    ]


def _stamp(moment: datetime) -> str:
    """Return the one spelling of a point in time."""
    return moment.astimezone(UTC).isoformat()


_LETTERS: Mapping[type[Message], Callable[[Any], Sequence[Letter]]] = {
    SendInvitation: _send_invitation,
    SendMembersLow: _members_low,
    InvitationAccepted: _invitation_accepted,
    InvitationDeclined: _invitation_declined,
    InvitationExpired: _invitation_expired,
    MemberAccountCreated: _member_account_created,
    MemberLeft: _member_left,
    StandingOrderPaused: _standing_order_paused,
    UnitsReceived: _units_received,
    UnitsTransferred: _units_transferred,
    MemberPaidFor: _member_paid_for,
    AccountExpiring: _account_expiring,
    AccountExpired: _account_expired,
    AccountExtended: _account_extended,
}
