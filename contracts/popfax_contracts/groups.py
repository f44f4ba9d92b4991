"""Groups: what the platform asks on a subscriber's behalf, and the membership events that every service may follow.

The actor of a command is the subscriber on whose behalf it is sent. What an owner may do is refused to everybody else
with `not_owner`, and to the owner with `group_closed` once their account is closed. That it is closed is all that any
message says about the owner's account.
"""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from popfax_contracts.codes import GroupsCode
from popfax_contracts.fields import (
    Email,
    GroupName,
    Keyword,
    Language,
    Months,
    Name,
    PlanName,
    Timestamp,
    Units,
    UnitsOrNone,
)
from popfax_contracts.message import Command, Event, MalformedCommand, Marker, Refusal
from popfax_contracts.notifications import Token
from popfax_contracts.provisioning import GrantedAction
from popfax_contracts.topics import GROUPS_COMMANDS, GROUPS_COMMANDS_FROM_HTTP, GROUPS_EVENTS, GROUPS_MEMBERS

_OF_PEOPLE = (GROUPS_COMMANDS, GROUPS_COMMANDS_FROM_HTTP)

MAX_MEMBERS = 1000
"""The most members that one command may name, or mean by `all`."""

Via = Keyword
"""How somebody became a member: `account_created` or `invitation_accepted`. More values may come."""

End = Keyword
"""How a membership ended: `detached` by the owner, `left` by the member, `account_closed` with the member's account,
`group_closed` with the owner's. More values may come.
"""

Epoch = Annotated[int, Field(strict=True, ge=1)]
"""Which of a subscriber's memberships of a group this is, counted from 1."""

_OWNERS_ALONE = (GroupsCode.NOT_OWNER, GroupsCode.GROUP_CLOSED)
_NOT_PENDING = (
    GroupsCode.INVITATION_ACCEPTED,
    GroupsCode.INVITATION_DECLINED,
    GroupsCode.INVITATION_REVOKED,
    GroupsCode.INVITATION_EXPIRED,
    GroupsCode.INVITATION_BOUNCED,
)
_NOT_ANSWERABLE = (GroupsCode.UNKNOWN_INVITATION, GroupsCode.NOT_INVITED, GroupsCode.TOKEN_INVALID, *_NOT_PENDING)


# --- an account for a new member --------------------------------------------------------------------------------------


class MemberAccountCreated(Event, type="popfax.groups.member-account-created.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The account exists, is paid for, and is a member: the end of a `CreateMemberAccount`, for the owner's side.

    `request_id` is what the history of the group and the ledger know the payment by.
    """

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    plan: PlanName
    price_units: Units
    request_id: UUID | None = None


class MemberAccountRefused(
    Refusal, type="popfax.groups.member-account-refused.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """No account was created, nothing was paid, and nobody became a member."""

    group_id: UUID


class CreateMemberAccount(
    Command,
    type="popfax.groups.create-member-account.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(MemberAccountCreated,),
    refusal=MemberAccountRefused,
    codes=(
        *_OWNERS_ALONE,
        GroupsCode.UNKNOWN_PLAN,
        GroupsCode.NOT_ON_SALE,
        GroupsCode.PRICE_CHANGED,
        GroupsCode.QUOTA_OWNER_DAY,
        GroupsCode.ALREADY_MEMBER,
        GroupsCode.EMAIL_TAKEN,
        GroupsCode.ACCOUNT_CLOSED,
        GroupsCode.ACCOUNT_EXPIRED,
        GroupsCode.UNITS_SHORT,
        GroupsCode.TIMED_OUT,
        GroupsCode.CANCELLED,
        GroupsCode.NO_FAX_NUMBER,
        GroupsCode.ID_CONFLICT,
    ),
):
    """Create an account for a new member of the actor's group, paid for with the actor's own units.

    `price_units` is the price that the owner was shown. When it is done, `MemberJoined` comes with the answer. Up to
    `email_taken` the codes are checked before any other service is asked for anything. The daily quota is the one that
    `InviteByEmail` counts against.
    """

    group_id: UUID
    plan: PlanName
    price_units: Units
    email: Email
    first_name: Name
    last_name: Name
    language: Language


# --- the group --------------------------------------------------------------------------------------------------------


class GroupRenamed(Event, type="popfax.groups.group-renamed.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The group has a name of its own. The name may be a person's, so this event does not tell it."""

    group_id: UUID
    owner_id: UUID


class RenameRefused(Refusal, type="popfax.groups.rename-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The group keeps the name that it had."""

    group_id: UUID


class RenameGroup(
    Command,
    type="popfax.groups.rename-group.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(GroupRenamed,),
    refusal=RenameRefused,
    codes=_OWNERS_ALONE,
):
    """Name the actor's group. Until then it has its owner's name."""

    group_id: UUID
    name: GroupName


# --- its memberships --------------------------------------------------------------------------------------------------


class MemberJoined(Event, type="popfax.groups.member-joined.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A subscriber is now a member of a group. `epoch` counts their memberships of this group, from 1."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    epoch: int
    via: Via


class MemberLeft(Event, type="popfax.groups.member-left.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A membership has ended. Account and units stay the member's."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    epoch: int
    via: End


class MembershipRecorded(Event, type="popfax.groups.membership-recorded.v1", topic=GROUPS_MEMBERS, key="membership_id"):
    """A membership as it is now, for readers of the topic from its start. A tombstone follows when it ends."""

    membership_id: UUID
    group_id: UUID
    owner_id: UUID
    member_id: UUID
    epoch: int
    state: Keyword
    """`active`. More may come."""
    joined_at: Timestamp


class MembershipEnded(
    Event, type="popfax.groups.membership-ended.v1", topic=GROUPS_MEMBERS, key="membership_id", tombstone=True
):
    """The membership is over, and compaction removes it. `MemberLeft` says why it ended."""

    membership_id: UUID


class MembersMarker(
    Marker, type="popfax.groups.members-marker.v1", topic=GROUPS_MEMBERS, key="marker_id", tombstone=True
):
    """Says nothing. It makes Kafka compact the topic; leave it out."""


class Detachment(BaseModel):
    """The outcome for one member who was to be detached."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    outcome: Keyword
    """`detached`, or `not_member`."""


class MembersDetached(Event, type="popfax.groups.members-detached.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A `DetachMembers` is done: the outcome for each member, in the order of the command."""

    group_id: UUID
    owner_id: UUID
    outcomes: tuple[Detachment, ...]


class DetachmentRefused(Refusal, type="popfax.groups.detachment-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody was detached."""

    group_id: UUID


class MemberRef(BaseModel):
    """A member and, if it is known, which of their memberships is meant: any other is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    epoch: Epoch | None = None


class DetachMembers(
    Command,
    type="popfax.groups.detach-members.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(MembersDetached,),
    refusal=DetachmentRefused,
    codes=_OWNERS_ALONE,
):
    """End the memberships of some members of the actor's group. Accounts and units stay theirs.

    Each member has an outcome of their own in `MembersDetached`, and a `MemberLeft` follows for each membership that
    ended. Name the epochs where they are known: a command that arrives late then leaves later memberships alone. If
    the command is refused, nobody is detached.
    """

    group_id: UUID
    members: Annotated[tuple[MemberRef, ...], Field(min_length=1, max_length=MAX_MEMBERS)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({member.member_id for member in self.members}) != len(self.members):
            raise ValueError("a member is named twice")
        return self


class LeaveRefused(Refusal, type="popfax.groups.leave-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The actor is not a member of the group, or not in that epoch."""

    group_id: UUID


class LeaveGroup(
    Command,
    type="popfax.groups.leave-group.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(MemberLeft,),
    refusal=LeaveRefused,
    codes=(GroupsCode.NOT_MEMBER,),
):
    """End the actor's own membership of a group. Account and units stay theirs.

    `epoch` says which membership, if it is known.
    """

    group_id: UUID
    epoch: Epoch | None = None


# --- invitations ------------------------------------------------------------------------------------------------------


class InvitationSent(Event, type="popfax.groups.invitation-sent.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A subscriber is invited, and can answer until `expires_at`. `renewed` says that it was pending already."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID
    expires_at: Timestamp
    renewed: bool


class PlanOffer(BaseModel):
    """A plan that an account can be created with, and its price today."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plan: PlanName
    price_units: Units
    validity_months: Months


class AccountCreationRequired(
    Event, type="popfax.groups.account-creation-required.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """Nobody has the address. `CreateMemberAccount` with one of these plans would create an account for it."""

    group_id: UUID
    owner_id: UUID
    plans: tuple[PlanOffer, ...]


class InvitationRefused(Refusal, type="popfax.groups.invitation-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody was invited."""

    group_id: UUID


class InviteByEmail(
    Command,
    type="popfax.groups.invite-by-email.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(InvitationSent, AccountCreationRequired),
    refusal=InvitationRefused,
    codes=(
        *_OWNERS_ALONE,
        GroupsCode.QUOTA_OWNER_DAY,
        GroupsCode.OWN_ADDRESS,
        GroupsCode.ALREADY_MEMBER,
        GroupsCode.QUOTA_OWNER_PENDING,
        GroupsCode.QUOTA_ADDRESS_DAY,
        GroupsCode.QUOTA_ADDRESS_PENDING,
    ),
):
    """Invite whoever has an e-mail address into the actor's group.

    A subscriber gets a mail (`InvitationSent`). One whose invitation is pending already gets a new mail, and the
    earlier link becomes void. If nobody has the address, `AccountCreationRequired` says what an account would cost.

    Every command that says anything about an address counts against the owner's day, as `CreateMemberAccount` does;
    only mails count against the address.
    """

    group_id: UUID
    email: Email


class InvitationAccepted(Event, type="popfax.groups.invitation-accepted.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invited subscriber has accepted. `MemberJoined` comes with it."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationDeclined(Event, type="popfax.groups.invitation-declined.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invited subscriber has declined."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationAnswerRefused(
    Refusal, type="popfax.groups.invitation-answer-refused.v1", topic=GROUPS_EVENTS, key="invitation_id"
):
    """The answer to an invitation changed nothing."""

    invitation_id: UUID


class AcceptInvitation(
    Command,
    type="popfax.groups.accept-invitation.v1",
    topic=_OF_PEOPLE,
    key="invitation_id",
    answers=(InvitationAccepted,),
    refusal=InvitationAnswerRefused,
    codes=_NOT_ANSWERABLE,
):
    """Accept an invitation: with the token from the mail or, without it, as the invited subscriber (the actor).

    When it is done, `MemberJoined` comes with the answer.
    """

    invitation_id: UUID
    token: Token | None = None


class DeclineInvitation(
    Command,
    type="popfax.groups.decline-invitation.v1",
    topic=_OF_PEOPLE,
    key="invitation_id",
    answers=(InvitationDeclined,),
    refusal=InvitationAnswerRefused,
    codes=_NOT_ANSWERABLE,
):
    """Decline an invitation, on the same conditions as `AcceptInvitation`."""

    invitation_id: UUID
    token: Token | None = None


class InvitationRevoked(Event, type="popfax.groups.invitation-revoked.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invitation is void: the owner revoked it, or it has lost its purpose."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID
    reason: Keyword = "revoked"
    """`revoked` by the owner; `account_closed`, `group_closed`, or `joined` in another way."""


class RevocationRefused(Refusal, type="popfax.groups.revocation-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invitation was not revoked."""

    group_id: UUID
    invitation_id: UUID


class RevokeInvitation(
    Command,
    type="popfax.groups.revoke-invitation.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(InvitationRevoked,),
    refusal=RevocationRefused,
    codes=(
        *_OWNERS_ALONE,
        GroupsCode.UNKNOWN_INVITATION,
        *_NOT_PENDING,
    ),
):
    """Revoke a pending invitation into the actor's group.

    One that is past its time can be revoked, or renewed, until it has been recorded as expired.
    """

    group_id: UUID
    invitation_id: UUID


class InvitationExpired(Event, type="popfax.groups.invitation-expired.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody answered the invitation in time."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationBounced(Event, type="popfax.groups.invitation-bounced.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invitation's mail came back, which ends the invitation."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID
    reason: Keyword


# --- members with few units -------------------------------------------------------------------------------------------


class LowBalanceSet(Event, type="popfax.groups.low-balance-set.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The owner sees members with fewer units than `below_units` as low (none: nobody), and is mailed or not."""

    group_id: UUID
    owner_id: UUID
    below_units: Units | None
    mail: bool


class LowBalanceRefused(Refusal, type="popfax.groups.low-balance-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """What counts as low stays as it was."""

    group_id: UUID


class SetLowBalance(
    Command,
    type="popfax.groups.set-low-balance.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(LowBalanceSet,),
    refusal=LowBalanceRefused,
    codes=_OWNERS_ALONE,
):
    """Say below how many units the actor sees a member of their group as low; `null` takes that back.

    With `mail`, the actor is told once a day at most which members have become low.
    """

    group_id: UUID
    below_units: Units | None
    mail: bool = False

    @model_validator(mode="after")
    def _mails_about_something(self) -> Self:
        if self.mail and self.below_units is None:
            raise ValueError("a mail needs a number of units")
        return self


# --- units ------------------------------------------------------------------------------------------------------------


class TransferredLeg(BaseModel):
    """What one member got: 0 units if they had their preset balance already."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    amount_units: UnitsOrNone


class UnitsTransferred(Event, type="popfax.groups.units-transferred.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Every member has their units: the end of a `TransferUnits`, or of what a standing order began. For the owner."""

    group_id: UUID
    owner_id: UUID
    transfer_id: UUID
    mode: Keyword
    """`amount` or `top_up_to`, as it was asked for."""
    amount_units: Units
    legs: tuple[TransferredLeg, ...]
    total_units: Annotated[int, Field(strict=True, ge=0)]
    order_id: UUID | None = None
    """The standing order that asked for it; None for a command."""


class UnitsReceived(Event, type="popfax.groups.units-received.v1", topic=GROUPS_EVENTS, key="member_id"):
    """A member got units from the owner of a group: how many and from whom, and nothing else about the owner."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    transfer_id: UUID
    amount_units: Units


class TransferRefused(Refusal, type="popfax.groups.transfer-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody got anything. With `not_member`, `members` are those who are not members."""

    group_id: UUID
    transfer_id: UUID
    members: tuple[UUID, ...] = ()


class TransferUnits(
    Command,
    type="popfax.groups.transfer-units.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(UnitsTransferred,),
    refusal=TransferRefused,
    codes=(
        *_OWNERS_ALONE,
        GroupsCode.NOT_MEMBER,
        GroupsCode.NO_MEMBERS,
        GroupsCode.TOO_MANY_MEMBERS,
        GroupsCode.ACCOUNT_CLOSED,
        GroupsCode.ACCOUNT_EXPIRED,
        GroupsCode.TARGET_CLOSED,
        GroupsCode.UNITS_SHORT,
    ),
):
    """Transfer units from the actor to members of their group, for good: either all of them get theirs, or none does.

    In mode `amount` each gets `amount_units`. In mode `top_up_to` each gets what brings their available units up to
    `amount_units`, and nothing if they have as much already. `members` are distinct members, or `all`. A
    `UnitsReceived` follows for each member who got some. From `account_closed` on, the codes are the ledger's.
    """

    group_id: UUID
    mode: Literal["amount", "top_up_to"]
    amount_units: Units
    members: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_MEMBERS)] | Literal["all"]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if isinstance(self.members, tuple) and len(set(self.members)) != len(self.members):
            raise ValueError("a member is named twice")
        return self


# --- what an owner pays for a member ----------------------------------------------------------------------------------


class MemberPaidFor(Event, type="popfax.groups.member-paid-for.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A member's account was extended, or has the options pack, and the owner has paid: the end of a `PayForMember`.

    `expires_at` is the end that this very extension gave; None for the options pack.
    """

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    payment_id: UUID
    action: Keyword
    """`extension` or `options_pack`, as it was asked for. More values may come."""
    price_units: Units
    expires_at: Timestamp | None = None


class MemberPaymentRefused(
    Refusal, type="popfax.groups.member-payment-refused.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """The member's account is as it was, and nothing was paid. It is for the owner, and for nobody else."""

    group_id: UUID
    member_id: UUID


class PayForMember(
    Command,
    type="popfax.groups.pay-for-member.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(MemberPaidFor,),
    refusal=MemberPaymentRefused,
    codes=(
        *_OWNERS_ALONE,
        GroupsCode.NOT_MEMBER,
        GroupsCode.ACCOUNT_CLOSED,
        GroupsCode.ACCOUNT_EXPIRED,
        GroupsCode.UNITS_SHORT,
        GroupsCode.TARGET_CLOSED,
        GroupsCode.NO_PLAN,
        GroupsCode.TARGET_EXPIRED,
        GroupsCode.ALREADY_ADDED,
        GroupsCode.NOT_ON_SALE,
        GroupsCode.TOO_FAR_AHEAD,
        GroupsCode.END_CHANGED,
        GroupsCode.PRICE_CHANGED,
        GroupsCode.TIMED_OUT,
        GroupsCode.CANCELLED,
        GroupsCode.ID_CONFLICT,
    ),
):
    """Extend a member's account by its plan's validity, or add the options pack to it, with the actor's own units.

    One command pays for one member. `price_units` and `expires_at` are the price and the account's end that the owner
    was shown: if either is no longer so, nothing happens, so nobody extends twice what was to be extended once. Name
    the `epoch` if it is known: a command that arrives late then pays for no later membership. Membership is checked
    when the command is handled; a member who leaves a moment later gets what was paid for.

    `account_closed`, `account_expired` and `units_short` speak of the owner's account, the codes after them of the
    member's.
    """

    group_id: UUID
    member_id: UUID
    epoch: Epoch | None = None
    action: GrantedAction
    price_units: Units
    expires_at: Timestamp | None = None


# --- standing orders --------------------------------------------------------------------------------------------------


class StandingOrderSet(Event, type="popfax.groups.standing-order-set.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A member has this standing order from now on, for the owner's side alone: it never reaches the member.

    `version` rises each time that the order is set.
    """

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    order_id: UUID
    version: Annotated[int, Field(strict=True, ge=1)]
    kind: Keyword
    """`keep_at` or `monthly`, as it was asked for. More may come."""
    threshold_units: Units | None = None
    target_units: Units | None = None
    monthly_bound_units: Units | None = None
    amount_units: Units | None = None


class StandingOrderStopped(Event, type="popfax.groups.standing-order-stopped.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A member has no standing order any more, for the owner's side alone.

    What the ledger was asked for before still completes.
    """

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    order_id: UUID
    reason: Keyword
    """`stopped` by the owner, or how the membership ended, as `MemberLeft` says it. More may come."""


class StandingOrderPaused(Event, type="popfax.groups.standing-order-paused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A standing order waits until its owner sets it again, for the owner's side alone. Nothing was transferred."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    order_id: UUID
    reason: Keyword
    """The ledger's code: `units_short`, `account_expired`. More may come."""
    paused_at: Timestamp


class StandingOrderRefused(
    Refusal, type="popfax.groups.standing-order-refused.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """The member's standing order, if they have one, stays as it was."""

    group_id: UUID
    member_id: UUID


class SetStandingOrder(
    Command,
    type="popfax.groups.set-standing-order.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(StandingOrderSet,),
    refusal=StandingOrderRefused,
    codes=(*_OWNERS_ALONE, GroupsCode.NOT_MEMBER),
):
    """Give a member of the actor's group units again and again. A member has at most one order: this changes it.

    `keep_at` tops the member up to `target_units` whenever they have fewer than `threshold_units` available, with at
    most `monthly_bound_units` a calendar month. `monthly` gives `amount_units` on the first of each month, beginning
    with the next. Months begin at midnight in Paris. What an order has moved in a month counts, however often it is
    set again.

    An order is paused when the owner has too few units (`StandingOrderPaused`), and goes on when it is set again. It
    ends with the membership. `UnitsTransferred` with its `order_id` says what it does.
    """

    group_id: UUID
    member_id: UUID
    kind: Literal["keep_at", "monthly"]
    threshold_units: Units | None = None
    target_units: Units | None = None
    monthly_bound_units: Units | None = None
    amount_units: Units | None = None
    epoch: Epoch | None = None
    """Which of the subscriber's memberships is meant, if it is known."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        keeping = (self.threshold_units, self.target_units, self.monthly_bound_units)
        if self.kind == "monthly":
            if self.amount_units is None or any(each is not None for each in keeping):
                raise ValueError("give amount_units, and nothing else")
        elif self.amount_units is not None or any(each is None for each in keeping):
            raise ValueError("give threshold_units, target_units and monthly_bound_units, and nothing else")
        elif (self.threshold_units or 0) > (self.target_units or 0):
            raise ValueError("threshold_units is above target_units")
        return self


class StopStandingOrder(
    Command,
    type="popfax.groups.stop-standing-order.v1",
    topic=_OF_PEOPLE,
    key="group_id",
    answers=(StandingOrderStopped,),
    refusal=StandingOrderRefused,
    codes=(*_OWNERS_ALONE, GroupsCode.NO_ORDER),
):
    """Stop a member's standing order, paused or not. Once this is answered the order starts nothing.

    What the ledger was asked for before still completes, and is shown.
    """

    group_id: UUID
    member_id: UUID


# --- what can't be read, and what is on each topic --------------------------------------------------------------------


class GroupsCommandMalformed(
    MalformedCommand, type="popfax.groups.command-malformed.v1", topic=GROUPS_EVENTS, key="parked_id"
):
    """A command to groups could not be read."""


GroupsCommand = (
    CreateMemberAccount
    | RenameGroup
    | InviteByEmail
    | AcceptInvitation
    | DeclineInvitation
    | RevokeInvitation
    | DetachMembers
    | LeaveGroup
    | SetLowBalance
    | TransferUnits
    | PayForMember
    | SetStandingOrder
    | StopStandingOrder
)
GroupsEvent = (
    MemberAccountCreated
    | MemberAccountRefused
    | GroupRenamed
    | RenameRefused
    | MemberJoined
    | MemberLeft
    | MembersDetached
    | DetachmentRefused
    | LeaveRefused
    | InvitationSent
    | AccountCreationRequired
    | InvitationRefused
    | InvitationAccepted
    | InvitationDeclined
    | InvitationRevoked
    | InvitationExpired
    | InvitationBounced
    | InvitationAnswerRefused
    | RevocationRefused
    | LowBalanceSet
    | LowBalanceRefused
    | UnitsTransferred
    | UnitsReceived
    | TransferRefused
    | MemberPaidFor
    | MemberPaymentRefused
    | StandingOrderSet
    | StandingOrderStopped
    | StandingOrderPaused
    | StandingOrderRefused
    | GroupsCommandMalformed
)
GroupsMember = MembershipRecorded | MembershipEnded | MembersMarker
