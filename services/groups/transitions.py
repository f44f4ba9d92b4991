"""State transitions: each function changes the roster, writes the history, and returns the messages that follow.

Handlers and the saga decide whether a transition takes place; how it takes place is the same for all of them.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import (
    End,
    InvitationAccepted,
    InvitationBounced,
    InvitationDeclined,
    InvitationExpired,
    InvitationRevoked,
    InvitationSent,
    MemberJoined,
    MemberLeft,
    MembershipEnded,
    MembershipRecorded,
    PayForMember,
    StandingOrderPaused,
    StandingOrderStopped,
    TransferredLeg,
    UnitsReceived,
    UnitsTransferred,
    Via,
)
from popfax_contracts.ledger import TransfersPosted
from popfax_contracts.message import Event, group_of
from popfax_contracts.notifications import SendInvitation
from services.chassis.messages import ClearTimer, Effect, SetTimer
from services.chassis.rows import replace
from services.chassis.service import Moment
from services.groups.domain import (
    INVITATION_LIFETIME,
    AccountState,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    OrderKind,
    OrderState,
    StandingOrder,
    Tally,
    Transfer,
    TransferState,
    beginning_of,
    hash_token,
    history_of_leg,
    history_of_membership,
    history_of_pause,
    month_after,
    order_of,
    received_invitations_tally,
    sent_invitations_tally,
)
from services.groups.store import LoadPlan, Roster
from services.groups.tables import INVITATIONS_OF, LINES_ABOUT, MEMBERSHIPS_OF
from services.groups.timers import InvitationDue

# --- history ----------------------------------------------------------------------------------------------------------


def _begun(
    roster: Roster,
    id_: UUID,
    group_id: UUID,
    kind: Kind,
    at: datetime,
    actor_id: UUID | None,
    reference_id: UUID,
    outcome: str,
    member_id: UUID | None = None,
    units: int | None = None,
    code: str | None = None,
) -> None:
    """Write a history line whose outcome is still pending."""
    line = HistoryEntry(id_, group_id, kind, at, actor_id, member_id, reference_id, units, outcome, code, None)
    roster.history.put(line)


# --- people -----------------------------------------------------------------------------------------------------------


def need_person(load: LoadPlan, subscriber_id: UUID) -> None:
    """Name everything that is stored about a person: what `erase_person` reads."""
    load.subscribers.add(subscriber_id)
    load.groups.add(group_of(subscriber_id))
    load.invitations.add_all(INVITATIONS_OF, subscriber_id)
    load.memberships.add_all(MEMBERSHIPS_OF, subscriber_id)


def erase_person(roster: Roster, subscriber_id: UUID) -> None:
    """Erase a person: address, group name (which may identify them), and what owners were shown of them."""
    known = roster.subscriber(subscriber_id)
    roster.subscribers.put(replace(known, email=None, first_name=None, last_name=None, language=None, time_zone=None))
    group = roster.groups.find(group_of(subscriber_id))
    if group is not None:
        roster.groups.put(replace(group, name="", renamed=False))
    for invitation in roster.invitations.all(INVITATIONS_OF, subscriber_id):
        roster.invitations.put(replace(invitation, email=None))
    for membership in roster.memberships.all(MEMBERSHIPS_OF, subscriber_id):
        roster.memberships.put(replace(membership, shown_name=None, shown_email=None))


# --- accounts for new members -----------------------------------------------------------------------------------------


def begin_creation(
    roster: Roster, saga_id: UUID, group_id: UUID, owner_id: UUID, price_units: int, moment: Moment
) -> None:
    """Record that an account is to be created. Only the saga knows for whom, and only until it ends."""
    _begun(
        roster,
        id_=saga_id,
        group_id=group_id,
        kind=Kind.ACCOUNT,
        at=moment.now,
        actor_id=owner_id,
        reference_id=saga_id,
        units=price_units,
        outcome="pending",
    )


def end_creation(roster: Roster, saga_id: UUID, member_id: UUID | None, code: str | None, moment: Moment) -> None:
    """Record the outcome of a creation: the account of `member_id`, or the refusal code."""
    outcome = "refused" if member_id is None else "created"
    line = roster.history[saga_id]
    roster.history.put(replace(line, member_id=member_id, outcome=outcome, code=code, ended_at=moment.now))


# --- what an owner pays for a member ----------------------------------------------------------------------------------


def begin_payment(
    roster: Roster, saga_id: UUID, kind: Kind, command: PayForMember, owner_id: UUID, moment: Moment
) -> None:
    """Record what an owner is about to pay for a member."""
    _begun(
        roster,
        id_=saga_id,
        group_id=command.group_id,
        kind=kind,
        at=moment.now,
        actor_id=owner_id,
        member_id=command.member_id,
        reference_id=saga_id,
        units=command.price_units,
        outcome="pending",
    )


def end_payment(roster: Roster, saga_id: UUID, code: str | None, moment: Moment) -> None:
    """Record that it is granted and paid, or why not."""
    outcome = "done" if code is None else "refused"
    roster.history.put(replace(roster.history[saga_id], outcome=outcome, code=code, ended_at=moment.now))


# --- memberships ------------------------------------------------------------------------------------------------------


def join(
    roster: Roster, group_id: UUID, owner_id: UUID, member_id: UUID, via: Via, actor_id: UUID | None, moment: Moment
) -> list[Effect]:
    """Make a subscriber a member. An invitation that is still pending is revoked, being pointless now.

    If the owner's or the member's account has been closed meanwhile, the membership ends at once.
    """
    before = roster.membership(group_id, owner_id, member_id)
    if before.active:
        return []  # an account that is just being paid can be invited already, and have accepted
    effects: list[Effect] = []
    if before.invitation_id is not None:
        invitation = roster.invitations[before.invitation_id]
        effects += revoke(roster, invitation, "joined", moment)
        before = roster.membership(group_id, owner_id, member_id)
    member = replace(
        before,
        active=True,
        epoch=before.epoch + 1,
        joined_at=moment.now,
        ended_at=None,
        shown_name=None,
        shown_email=None,
    )
    roster.memberships.put(member)
    _lock_group(roster, group_id, owner_id)
    _begun(
        roster,
        id_=history_of_membership(member.id, member.epoch),
        group_id=group_id,
        kind=Kind.MEMBERSHIP,
        at=moment.now,
        actor_id=actor_id,
        member_id=member_id,
        reference_id=member.id,
        outcome="active",
        code=via,
    )
    effects += [
        MemberJoined(group_id=group_id, owner_id=owner_id, member_id=member_id, epoch=member.epoch, via=via),
        MembershipRecorded(
            membership_id=member.id,
            group_id=group_id,
            owner_id=owner_id,
            member_id=member_id,
            epoch=member.epoch,
            state="active",
            joined_at=moment.now,
        ),
    ]
    if roster.is_closed(group_id):
        effects += _end(roster, member, "group_closed", moment)
    elif roster.subscriber(member_id).state is AccountState.CLOSED:
        effects += _end(roster, member, "account_closed", moment)
    return effects


def _lock_group(roster: Roster, group_id: UUID, owner_id: UUID) -> None:
    """Make sure that the group has a row, even before its owner's record arrives: closing a group locks that row."""
    if roster.groups.find(group_id) is None:
        roster.groups.put(roster.group(group_id, owner_id))


def leave(roster: Roster, member: Membership, via: End, moment: Moment) -> list[Effect]:
    """End a membership, and its standing order. The account and its units stay the member's.

    Later changes of name are theirs alone. Its needs set `leaving` in the load plan.
    """
    order = roster.orders.find(order_of(member.id))
    if order is None or order.state is OrderState.STOPPED:
        return _end(roster, member, via, moment)
    return [*_end(roster, member, via, moment), stop_order(roster, order, via, moment)]


def _end(roster: Roster, member: Membership, via: End, moment: Moment) -> list[Effect]:
    name, email = _as_shown(roster, member.member_id) if via in _LEAVES_TRACES else (None, None)
    roster.memberships.put(replace(member, active=False, ended_at=moment.now, shown_name=name, shown_email=email))
    entry = roster.history[history_of_membership(member.id, member.epoch)]
    roster.history.put(replace(entry, outcome=via, ended_at=moment.now))
    return [
        MemberLeft(
            group_id=member.group_id,
            owner_id=member.owner_id,
            member_id=member.member_id,
            epoch=member.epoch,
            via=via,
        ),
        MembershipEnded(membership_id=member.id),
    ]


_LEAVES_TRACES = frozenset({"detached", "left"})
"""How memberships end of which somebody sees the history still: no account is closed."""


def _as_shown(roster: Roster, member_id: UUID) -> tuple[str | None, str | None]:
    """Return the name and address that the owner sees at this moment."""
    known = roster.subscriber(member_id)
    return " ".join(filter(None, (known.first_name, known.last_name))) or None, known.email


# --- invitations ------------------------------------------------------------------------------------------------------


def invite(
    roster: Roster,
    invitation_id: UUID,
    group_id: UUID,
    owner_id: UUID,
    subscriber_id: UUID,
    email: str,
    moment: Moment,
) -> list[Effect]:
    """Invite a subscriber, under `invitation_id`; an invitation that is already pending is renewed with a new token."""
    membership = roster.membership(group_id, owner_id, subscriber_id)
    pending = membership.invitation_id and roster.invitations[membership.invitation_id]
    token = moment.token_bytes(32)
    token_hash, expires_at = hash_token(token), moment.now + INVITATION_LIFETIME
    if pending:
        invitation = replace(
            pending, round=pending.round + 1, token_hash=token_hash, expires_at=expires_at, email=email
        )
    else:
        invitation = Invitation(
            id=invitation_id,
            group_id=group_id,
            owner_id=owner_id,
            subscriber_id=subscriber_id,
            state=InvitationState.PENDING,
            round=1,
            token_hash=token_hash,
            made_at=moment.now,
            expires_at=expires_at,
            ended_at=None,
            email=email,
        )
        roster.memberships.put(replace(membership, invitation_id=invitation.id))
        _invitation_begun(roster, invitation)
    roster.invitations.put(invitation)
    _lock_group(roster, group_id, owner_id)
    renewed = invitation.round > 1
    _count(
        roster, sent_invitations_tally(owner_id), 0 if renewed else 1, 0, moment
    )  # the day's were counted when it was asked for
    _count(roster, received_invitations_tally(subscriber_id), 0 if renewed else 1, 1, moment)
    group = roster.groups[group_id]
    return [
        InvitationSent(**_between(invitation), expires_at=invitation.expires_at, renewed=renewed),
        SendInvitation(
            invitation_id=invitation.id,
            round=invitation.round,
            recipient_id=subscriber_id,
            owner_id=owner_id,
            group_name=group.name if group.renamed else None,
            token=token.hex(),
            expires_at=invitation.expires_at,
        ),
        SetTimer(invitation.id, invitation.expires_at, InvitationDue(invitation_id=invitation.id)),
    ]


def _invitation_begun(roster: Roster, invitation: Invitation) -> None:
    _begun(
        roster,
        id_=invitation.id,
        group_id=invitation.group_id,
        kind=Kind.INVITATION,
        at=invitation.made_at,
        actor_id=invitation.owner_id,
        member_id=invitation.subscriber_id,
        reference_id=invitation.id,
        outcome=InvitationState.PENDING.value,
    )


def charge_quota(roster: Roster, owner_id: UUID, moment: Moment) -> GroupsCode | None:
    """Count an owner's question about an address; return the refusal code if today's quota is used up.

    Whatever the answer is, it reveals whether somebody has that address.
    """
    asked = tally(roster, sent_invitations_tally(owner_id), moment)
    if asked.today >= roster.quotas.owner_day:
        return GroupsCode.QUOTA_OWNER_DAY
    roster.tallies.put(replace(asked, today=asked.today + 1))
    return None


def tally(roster: Roster, id_: UUID, moment: Moment) -> Tally:
    """Return a tally with today's counts."""
    day = moment.now.date()
    return (roster.tallies.find(id_) or Tally(id_, 0, day, 0)).on(day)


def _count(roster: Roster, id_: UUID, pending: int, today: int, moment: Moment) -> None:
    before = tally(roster, id_, moment)
    roster.tallies.put(replace(before, pending=before.pending + pending, today=before.today + today))


def accept(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """Accept an invitation: the subscriber becomes a member."""
    group_id, owner_id, subscriber_id = invitation.group_id, invitation.owner_id, invitation.subscriber_id
    told = InvitationAccepted(**_between(invitation))
    ending = _invitation_ended(roster, invitation, InvitationState.ACCEPTED, told, None, moment)
    return [*ending, *join(roster, group_id, owner_id, subscriber_id, "invitation_accepted", subscriber_id, moment)]


def decline(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """Decline an invitation."""
    told = InvitationDeclined(**_between(invitation))
    return _invitation_ended(roster, invitation, InvitationState.DECLINED, told, None, moment)


def revoke(roster: Roster, invitation: Invitation, reason: str, moment: Moment) -> list[Effect]:
    """Revoke an invitation, for the owner (`revoked`) or because it has become pointless; `reason` says which."""
    told = InvitationRevoked(**_between(invitation), reason=reason)
    code = None if reason == "revoked" else reason
    return _invitation_ended(roster, invitation, InvitationState.REVOKED, told, code, moment)


def expire(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """End an invitation that nobody answered in time."""
    told = InvitationExpired(**_between(invitation))
    return _invitation_ended(roster, invitation, InvitationState.EXPIRED, told, None, moment)


def bounce(roster: Roster, invitation: Invitation, reason: str, moment: Moment) -> list[Effect]:
    """End an invitation whose mail could not be delivered."""
    told = InvitationBounced(**_between(invitation), reason=reason)
    return _invitation_ended(roster, invitation, InvitationState.BOUNCED, told, reason, moment)


def _between(invitation: Invitation) -> dict[str, UUID]:
    """Return the ids that every event about an invitation carries."""
    return {
        "group_id": invitation.group_id,
        "owner_id": invitation.owner_id,
        "invitation_id": invitation.id,
        "subscriber_id": invitation.subscriber_id,
    }


def _invitation_ended(
    roster: Roster, invitation: Invitation, state: InvitationState, told: Event, code: str | None, moment: Moment
) -> list[Effect]:
    roster.invitations.put(replace(invitation, state=state, ended_at=moment.now))
    membership = roster.membership(invitation.group_id, invitation.owner_id, invitation.subscriber_id)
    roster.memberships.put(replace(membership, invitation_id=None))
    roster.history.put(replace(roster.history[invitation.id], outcome=state.value, code=code, ended_at=moment.now))
    _count(roster, sent_invitations_tally(invitation.owner_id), -1, 0, moment)
    _count(roster, received_invitations_tally(invitation.subscriber_id), -1, 0, moment)
    return [told, ClearTimer(invitation.id)]


# --- transfers --------------------------------------------------------------------------------------------------------


def request_transfer(roster: Roster, transfer: Transfer, member_ids: Iterable[UUID]) -> None:
    """Record a transfer that the ledger is asked for: a pending history line for each member."""
    roster.transfers.put(transfer)
    for member_id in member_ids:
        _begun(
            roster,
            id_=history_of_leg(transfer.id, member_id),
            group_id=transfer.group_id,
            kind=Kind.TRANSFER,
            at=transfer.asked_at,
            actor_id=transfer.owner_id if transfer.order_id is None else None,
            member_id=member_id,
            reference_id=transfer.id,
            outcome=TransferState.PENDING.value,
        )


def complete_transfer(roster: Roster, transfer: Transfer, posted: TransfersPosted, moment: Moment) -> list[Effect]:
    """Record that the ledger has moved the units. The owner is told about all legs, each member about theirs."""
    roster.transfers.put(
        replace(transfer, state=TransferState.DONE, total_units=posted.total_units, ended_at=moment.now)
    )
    for leg in posted.legs:
        entry = roster.history[history_of_leg(transfer.id, leg.account_id)]
        roster.history.put(
            replace(entry, outcome=TransferState.DONE.value, units=leg.amount_units, ended_at=moment.now)
        )
    receipt = UnitsTransferred(
        group_id=transfer.group_id,
        owner_id=transfer.owner_id,
        transfer_id=transfer.id,
        mode=transfer.mode,
        amount_units=transfer.amount_units,
        legs=tuple(TransferredLeg(member_id=leg.account_id, amount_units=leg.amount_units) for leg in posted.legs),
        total_units=posted.total_units,
        order_id=transfer.order_id,
    )
    received = [
        UnitsReceived(
            group_id=transfer.group_id,
            owner_id=transfer.owner_id,
            member_id=leg.account_id,
            transfer_id=transfer.id,
            amount_units=leg.amount_units,
        )
        for leg in posted.legs
        if leg.amount_units
    ]
    return [receipt, *received]


def refuse_transfer(roster: Roster, transfer: Transfer, code: str, moment: Moment) -> None:
    """Record that the ledger has refused the transfer and moved nothing."""
    roster.transfers.put(replace(transfer, state=TransferState.REFUSED, code=code, ended_at=moment.now))
    for entry in roster.history.all(LINES_ABOUT, transfer.id):
        roster.history.put(replace(entry, outcome=TransferState.REFUSED.value, code=code, ended_at=moment.now))


# --- standing orders --------------------------------------------------------------------------------------------------


def order_line(
    roster: Roster, id_: UUID, order: StandingOrder, outcome: str, actor_id: UUID | None, moment: Moment
) -> None:
    """Write a history line: a standing order was set or stopped by its owner, or has paused."""
    line = HistoryEntry(
        id=id_,
        group_id=order.group_id,
        kind=Kind.ORDER,
        at=moment.now,
        actor_id=actor_id,
        member_id=order.member_id,
        reference_id=order.id,
        units=None,
        outcome=outcome,
        code=order.code or order.kind.value,
        ended_at=moment.now,
    )
    roster.history.put(line)


def stop_order(roster: Roster, order: StandingOrder, reason: str, moment: Moment) -> Event:
    """Stop a standing order for good; what the ledger was asked for before still completes."""
    order = order if order.transfer_id is not None else order.due(None)
    stopped = replace(order, state=OrderState.STOPPED, version=order.version + 1, code=None, ended_at=moment.now)
    roster.orders.put(stopped)
    return StandingOrderStopped(**_of_order(order), reason=reason)


def order_transferred(
    roster: Roster, transfer: Transfer, total_units: int, balance_version: int, moment: Moment
) -> None:
    """Count what an order has moved, which that version of the balance shows, and look what is next."""
    order = _answered(roster, transfer)
    if order is None or transfer.month is None:
        return
    units = order.month_units + (total_units if transfer.month == order.month else 0)
    settled = month_after(transfer.month) if transfer.mode == "amount" and transfer.bound_units is None else None
    order = replace(
        order,
        month_units=units,
        next_month=max(order.next_month, settled or order.next_month),
        balance_version=max(order.balance_version, balance_version),
    )
    roster.orders.put(look(order, moment))


def order_refused(roster: Roster, transfer: Transfer, code: str, moment: Moment) -> list[Effect]:
    """Pause an order whose transfer the ledger refused. One that was set again since is not what was refused."""
    order = _answered(roster, transfer)
    if order is None:
        return []
    if order.state is not OrderState.ACTIVE or order.version != transfer.order_version:
        roster.orders.put(look(order, moment))
        return []
    paused = replace(order, state=OrderState.PAUSED, version=order.version + 1, code=code)
    roster.orders.put(paused)
    order_line(roster, history_of_pause(transfer.id), paused, "paused", None, moment)
    return [StandingOrderPaused(**_of_order(order), reason=code, paused_at=moment.now)]


def look(order: StandingOrder, moment: Moment) -> StandingOrder:
    """Return an order that will be looked at as soon as it may have something to do."""
    if order.transfer_id is not None:
        return order.due(moment.now)
    if order.state is not OrderState.ACTIVE:
        return order.due(None)
    return order.due(beginning_of(order.next_month) if order.kind is OrderKind.MONTHLY else moment.now)


def _answered(roster: Roster, transfer: Transfer) -> StandingOrder | None:
    """Return the order that asked for a transfer, which is no longer open; None for a command's."""
    if transfer.order_id is None:
        return None
    return replace(roster.orders[transfer.order_id].due(None), transfer_id=None)


def _of_order(order: StandingOrder) -> dict[str, UUID]:
    """Return the ids that every event about a standing order carries."""
    return {
        "group_id": order.group_id,
        "owner_id": order.owner_id,
        "member_id": order.member_id,
        "order_id": order.id,
    }
