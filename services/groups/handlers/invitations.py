"""Invitations: sent, answered, revoked, expired, bounced. Exactly one ending wins, whatever the order."""

from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import (
    AcceptInvitation,
    AccountCreationRequired,
    DeclineInvitation,
    InvitationAnswerRefused,
    InvitationRefused,
    InviteByEmail,
    PlanOffer,
    RevocationRefused,
    RevokeInvitation,
)
from popfax_contracts.notifications import MailUndeliverable
from services.chassis.messages import Effect, Incoming, Outcome
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import Invitation, InvitationState, received_invitations_tally, sent_invitations_tally
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster, invitation_of
from services.groups.tables import ALL_PLANS
from services.groups.timers import InvitationDue


def _inviting(load: LoadPlan, message: Incoming[InviteByEmail]) -> None:
    command = message.body
    load.groups.add(command.group_id)
    load.take_in(command.group_id, command.email)
    load.invitations.add(invitation_of(message))
    load.plans.add_all(ALL_PLANS)
    if message.actor is not None:
        load.tallies.add(sent_invitations_tally(message.actor))


@needs(_inviting)
def invite_by_email(roster: Roster, message: Incoming[InviteByEmail], moment: Moment) -> Outcome:
    """Invite the subscriber who has the address, or say what an account for it would cost."""
    command = message.body
    if roster.invitations.find(invitation_of(message)) is not None:
        return ()  # redelivered after the inbox's retention: it was sent, and may have ended
    holder_id = roster.holder(command.email)
    code = (
        why_not_owner(roster, message, command.group_id)
        or transitions.charge_quota(roster, owner_of(message), moment)
        or _why_not_invited(roster, message, holder_id, moment)
    )
    if code is not None:
        return [InvitationRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    owner_id, invitation_id = owner_of(message), invitation_of(message)
    if holder_id is None:
        return [AccountCreationRequired(group_id=command.group_id, owner_id=owner_id, plans=_offers(roster))]
    return transitions.invite(roster, invitation_id, command.group_id, owner_id, holder_id, command.email, moment)


def _why_not_invited(
    roster: Roster, message: Incoming[InviteByEmail], holder_id: UUID | None, moment: Moment
) -> GroupsCode | None:
    """Check in the order that the contract promises. An unknown address counts only against the owner's quota."""
    quotas, owner_id = roster.quotas, owner_of(message)
    if holder_id is None:
        return None
    if holder_id == owner_id:
        return GroupsCode.OWN_ADDRESS
    membership = roster.membership(message.body.group_id, owner_id, holder_id)
    if membership.active:
        return GroupsCode.ALREADY_MEMBER
    made = transitions.tally(roster, sent_invitations_tally(owner_id), moment)
    got = transitions.tally(roster, received_invitations_tally(holder_id), moment)
    is_new = membership.invitation_id is None
    exceeded = (
        (GroupsCode.QUOTA_OWNER_PENDING, is_new and made.pending >= quotas.owner_pending),
        (GroupsCode.QUOTA_ADDRESS_DAY, got.today >= quotas.address_day),
        (GroupsCode.QUOTA_ADDRESS_PENDING, is_new and got.pending >= quotas.address_pending),
    )
    return next((code for code, is_exceeded in exceeded if is_exceeded), None)


def _offers(roster: Roster) -> tuple[PlanOffer, ...]:
    plans = (plan for plan in roster.plans.all(ALL_PLANS) if plan.on_sale)
    return tuple(
        PlanOffer(plan=plan.plan, price_units=plan.price_units, validity_months=plan.validity_months) for plan in plans
    )


def _invitation(load: LoadPlan, message: Incoming[AcceptInvitation | DeclineInvitation | InvitationDue]) -> None:
    load.invitations.add(message.body.invitation_id)


@needs(_invitation)
def accept_invitation(roster: Roster, message: Incoming[AcceptInvitation], moment: Moment) -> Outcome:
    """Make the invited subscriber a member."""
    invitation, refusal = _answerable(roster, message, moment)
    return refusal if invitation is None else transitions.accept(roster, invitation, moment)


@needs(_invitation)
def decline_invitation(roster: Roster, message: Incoming[DeclineInvitation], moment: Moment) -> Outcome:
    """Decline an invitation for the invited subscriber."""
    invitation, refusal = _answerable(roster, message, moment)
    return refusal if invitation is None else transitions.decline(roster, invitation, moment)


def _answerable(
    roster: Roster, message: Incoming[AcceptInvitation | DeclineInvitation], moment: Moment
) -> tuple[Invitation | None, Outcome]:
    """Return the invitation if it can be answered, otherwise the refusal. One whose time is up ends."""
    command = message.body
    invitation = roster.invitations.find(command.invitation_id)
    code = _why_not_answered(message, invitation)
    effects: list[Effect] = []
    if code is None and invitation is not None and invitation.expires_at <= moment.now:
        effects += transitions.expire(roster, invitation, moment)
        code = InvitationState.EXPIRED.refusal
    if code is None:
        return invitation, ()
    told = InvitationAnswerRefused(invitation_id=command.invitation_id, code=code, command_type=command.TYPE)
    return None, [*effects, told]


def _why_not_answered(
    message: Incoming[AcceptInvitation | DeclineInvitation], invitation: Invitation | None
) -> GroupsCode | None:
    """Return why an invitation can't be answered: it takes its token, or the invited subscriber as the actor."""
    token, actor = message.body.token, message.actor
    if invitation is None:
        return GroupsCode.UNKNOWN_INVITATION
    if (actor is None and token is None) or actor not in (None, invitation.subscriber_id):
        return GroupsCode.NOT_INVITED
    if token is not None and not invitation.is_opened_by(token):
        return GroupsCode.TOKEN_INVALID
    return None if invitation.state is InvitationState.PENDING else invitation.state.refusal


def _revocation(load: LoadPlan, message: Incoming[RevokeInvitation]) -> None:
    load.groups.add(message.body.group_id)
    load.invitations.add(message.body.invitation_id)


@needs(_revocation)
def revoke_invitation(roster: Roster, message: Incoming[RevokeInvitation], moment: Moment) -> Outcome:
    """Revoke an invitation for its owner."""
    command = message.body
    invitation = roster.invitations.find(command.invitation_id)
    code = why_not_owner(roster, message, command.group_id) or _why_not_revoked(command, invitation)
    if invitation is not None and code is None:
        return transitions.revoke(roster, invitation, "revoked", moment)
    return [
        RevocationRefused(
            group_id=command.group_id,
            invitation_id=command.invitation_id,
            code=code or GroupsCode.UNKNOWN_INVITATION,
            command_type=command.TYPE,
        )
    ]


def _why_not_revoked(command: RevokeInvitation, invitation: Invitation | None) -> GroupsCode | None:
    if invitation is None or invitation.group_id != command.group_id:
        return GroupsCode.UNKNOWN_INVITATION
    return None if invitation.state is InvitationState.PENDING else invitation.state.refusal


@needs(_invitation)
def invitation_due(roster: Roster, message: Incoming[InvitationDue], moment: Moment) -> Outcome:
    """End an invitation that nobody answered; one that was renewed has another timer, and one that ended needs none."""
    invitation = roster.invitations.find(message.body.invitation_id)
    if invitation is None or invitation.state is not InvitationState.PENDING or moment.now < invitation.expires_at:
        return ()
    return transitions.expire(roster, invitation, moment)


def _invitation_of_mail(load: LoadPlan, message: Incoming[MailUndeliverable]) -> None:
    if message.body.invitation_id is not None:
        load.invitations.add(message.body.invitation_id)


@needs(_invitation_of_mail)
def mail_undeliverable(roster: Roster, message: Incoming[MailUndeliverable], moment: Moment) -> Outcome:
    """End an invitation whose last mail came back. What happened to an earlier mail does not matter."""
    told = message.body
    if told.invitation_id is None:
        return ()
    invitation = roster.invitations.find(told.invitation_id)
    if invitation is None or invitation.state is not InvitationState.PENDING or told.round != invitation.round:
        return ()
    return transitions.bounce(roster, invitation, told.reason, moment)
