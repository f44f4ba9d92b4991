"""What becomes true of a group: each function changes the roster, writes the history, and gives the messages that tell.

Handlers and the saga decide; here it happens, in one way whoever asked for it.
"""

from collections.abc import Iterable
from dataclasses import replace
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
    TransferredLeg,
    UnitsReceived,
    UnitsTransferred,
    Via,
)
from popfax_contracts.ledger import TransfersPosted
from popfax_contracts.message import Event, group_of
from popfax_contracts.notifications import SendInvitation
from services.chassis.messages import ClearTimer, Effect, SetTimer
from services.chassis.service import Moment
from services.groups.domain import (
    INVITATION_LIFETIME,
    AccountState,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    Membership,
    Tally,
    Transfer,
    TransferState,
    hash_token,
    history_of_leg,
    history_of_membership,
    received_invitations_tally,
    sent_invitations_tally,
)
from services.groups.store import Roster
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
    """Write the line that tells of something whose end is still to come."""
    line = HistoryEntry(id_, group_id, kind, at, actor_id, member_id, reference_id, units, outcome, code, None)
    roster.history.put(line)


# --- people -----------------------------------------------------------------------------------------------------------


def forgotten(roster: Roster, subscriber_id: UUID) -> None:
    """Who somebody was is erased: their address, their group's name, which may tell, and what owners saw of them."""
    known = roster.subscriber(subscriber_id)
    roster.subscribers.put(replace(known, email=None, first_name=None, last_name=None, language=None))
    group = roster.groups.get(group_of(subscriber_id))
    if group is not None:
        roster.groups.put(replace(group, name="", renamed=False))
    for invitation in roster.invitations.values():
        if invitation.subscriber_id == subscriber_id:
            roster.invitations.put(replace(invitation, email=None))
    for membership in roster.memberships.values():
        if membership.member_id == subscriber_id:
            roster.memberships.put(replace(membership, shown_name=None, shown_email=None))


# --- accounts for new members -----------------------------------------------------------------------------------------


def creation_asked(
    roster: Roster, saga_id: UUID, group_id: UUID, owner_id: UUID, price_units: int, moment: Moment
) -> None:
    """An account is to be created for a new member. Who it is meant for is in the saga alone, until its end."""
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


def creation_ended(roster: Roster, saga_id: UUID, member_id: UUID | None, code: str | None, moment: Moment) -> None:
    """The account is created, and is `member_id`'s; or it is refused, and `code` says why."""
    outcome = "refused" if member_id is None else "created"
    line = roster.history[saga_id]
    roster.history.put(replace(line, member_id=member_id, outcome=outcome, code=code, ended_at=moment.now))


# --- memberships ------------------------------------------------------------------------------------------------------


def joined(
    roster: Roster, group_id: UUID, owner_id: UUID, member_id: UUID, via: Via, actor_id: UUID | None, moment: Moment
) -> list[Effect]:
    """A subscriber becomes a member; an invitation that is pending still has lost its sense.

    What ended meanwhile ends this at once: the owner's account, or the member's.
    """
    before = roster.membership(group_id, owner_id, member_id)
    if before.active:
        return []  # an account that is just being paid can be invited already, and have accepted
    effects: list[Effect] = []
    if before.invitation_id is not None:
        invitation = roster.invitations[before.invitation_id]
        effects += revoked(roster, invitation, "joined", moment)
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
        effects += left(roster, member, "group_closed", moment)
    elif roster.subscriber(member_id).state is AccountState.CLOSED:
        effects += left(roster, member, "account_closed", moment)
    return effects


def _lock_group(roster: Roster, group_id: UUID, owner_id: UUID) -> None:
    """Make a group's row if its owner's record has not come yet: what closes a group must find who is in it."""
    if roster.groups.get(group_id) is None:
        roster.groups.put(roster.group(group_id, owner_id))


def left(roster: Roster, member: Membership, via: End, moment: Moment) -> list[Effect]:
    """A membership ends. The account and its units stay the member's, and so does what they are called from now on."""
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
    """Return what an owner sees of a member now: name and address."""
    known = roster.subscriber(member_id)
    return " ".join(filter(None, (known.first_name, known.last_name))) or None, known.email


# --- invitations ------------------------------------------------------------------------------------------------------


def invited(
    roster: Roster,
    invitation_id: UUID,
    group_id: UUID,
    owner_id: UUID,
    subscriber_id: UUID,
    email: str,
    moment: Moment,
) -> list[Effect]:
    """A subscriber is invited: anew, with `invitation_id`, or with a new token for the invitation that is pending."""
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


def asked(roster: Roster, owner_id: UUID, moment: Moment) -> GroupsCode | None:
    """An owner asks about an address, and whatever the answer is tells who has it: it counts against their day.

    Return why it is not answered if the day's are used up.
    """
    if tally(roster, sent_invitations_tally(owner_id), moment).today >= roster.quotas.owner_day:
        return GroupsCode.QUOTA_OWNER_DAY
    _count(roster, sent_invitations_tally(owner_id), 0, 1, moment)
    return None


def tally(roster: Roster, id_: UUID, moment: Moment) -> Tally:
    """Give a tally as it is today."""
    day = moment.now.date()
    return (roster.tallies.get(id_) or Tally(id_, 0, day, 0)).on(day)


def _count(roster: Roster, id_: UUID, pending: int, today: int, moment: Moment) -> None:
    before = tally(roster, id_, moment)
    roster.tallies.put(replace(before, pending=before.pending + pending, today=before.today + today))


def accepted(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """The invited subscriber accepts, and becomes a member."""
    group_id, owner_id, subscriber_id = invitation.group_id, invitation.owner_id, invitation.subscriber_id
    told = InvitationAccepted(**_between(invitation))
    ending = _invitation_ended(roster, invitation, InvitationState.ACCEPTED, told, None, moment)
    return [*ending, *joined(roster, group_id, owner_id, subscriber_id, "invitation_accepted", subscriber_id, moment)]


def declined(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """The invited subscriber declines."""
    told = InvitationDeclined(**_between(invitation))
    return _invitation_ended(roster, invitation, InvitationState.DECLINED, told, None, moment)


def revoked(roster: Roster, invitation: Invitation, reason: str, moment: Moment) -> list[Effect]:
    """The invitation is void: the owner says so (`revoked`), or it has lost its sense."""
    told = InvitationRevoked(**_between(invitation), reason=reason)
    code = None if reason == "revoked" else reason
    return _invitation_ended(roster, invitation, InvitationState.REVOKED, told, code, moment)


def expired(roster: Roster, invitation: Invitation, moment: Moment) -> list[Effect]:
    """Nobody answered in time."""
    told = InvitationExpired(**_between(invitation))
    return _invitation_ended(roster, invitation, InvitationState.EXPIRED, told, None, moment)


def bounced(roster: Roster, invitation: Invitation, reason: str, moment: Moment) -> list[Effect]:
    """The invitation's mail came back."""
    told = InvitationBounced(**_between(invitation), reason=reason)
    return _invitation_ended(roster, invitation, InvitationState.BOUNCED, told, reason, moment)


def _between(invitation: Invitation) -> dict[str, UUID]:
    """Give the ids that whatever is told of an invitation names."""
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


def asked_for(roster: Roster, transfer: Transfer, member_ids: Iterable[UUID]) -> None:
    """A transfer is asked of the ledger: each member has a line that waits for its outcome."""
    roster.transfers.put(transfer)
    for member_id in member_ids:
        _begun(
            roster,
            id_=history_of_leg(transfer.id, member_id),
            group_id=transfer.group_id,
            kind=Kind.TRANSFER,
            at=transfer.asked_at,
            actor_id=transfer.owner_id,
            member_id=member_id,
            reference_id=transfer.id,
            outcome=TransferState.PENDING.value,
        )


def transferred(roster: Roster, transfer: Transfer, posted: TransfersPosted, moment: Moment) -> list[Effect]:
    """The ledger has moved the units: the owner's side learns of all, each member of theirs."""
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


def refused(roster: Roster, transfer: Transfer, code: str, moment: Moment) -> None:
    """The ledger has moved nothing."""
    roster.transfers.put(replace(transfer, state=TransferState.REFUSED, code=code, ended_at=moment.now))
    for entry in roster.history.values():
        if entry.reference_id == transfer.id:
            roster.history.put(replace(entry, outcome=TransferState.REFUSED.value, code=code, ended_at=moment.now))
