"""Groups: what the platform asks on a subscriber's behalf, and the membership events that anyone inside may follow.

The actor of a command is the subscriber on whose behalf it is. What an owner may do is refused to everybody else with
`not_owner`, and with `group_closed` once the owner's account is closed. That it is closed is all that any message tells
of the owner's account.
"""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
from popfax_contracts.topics import GROUPS_COMMANDS, GROUPS_COMMANDS_FROM_HTTP, GROUPS_EVENTS, GROUPS_MEMBERS

_OF_PEOPLE = (GROUPS_COMMANDS, GROUPS_COMMANDS_FROM_HTTP)

MAX_MEMBERS = 1000
"""As many members may be named, or meant, by one command."""

Via = Keyword
"""How somebody became a member: `account_created` or `invitation_accepted`. More may come."""

End = Keyword
"""How a membership ended: `detached` by the owner, `left` by the member, `account_closed` with the member's account,
`group_closed` with the owner's. More may come.
"""

Epoch = Annotated[int, Field(strict=True, ge=1)]
"""Which of a subscriber's memberships of a group, counted from 1."""

# --- commands ---------------------------------------------------------------------------------------------------------


class CreateMemberAccount(Command, type="popfax.groups.create-member-account.v1", topic=_OF_PEOPLE, key="group_id"):
    """Create an account for a new member of the actor's group, paid with the actor's own units.

    `price_units` is the price that the owner was shown. Answered by `MemberAccountCreated` and `MemberJoined`; refused
    by `MemberAccountRefused`.
    """

    group_id: UUID
    plan: PlanName
    price_units: Units
    email: Email
    first_name: Name
    last_name: Name
    language: Language


class RenameGroup(Command, type="popfax.groups.rename-group.v1", topic=_OF_PEOPLE, key="group_id"):
    """Give the actor's group a name. Until then it is called what its owner is called.

    Answered by `GroupRenamed`; refused by `RenameRefused` with `not_owner` or `group_closed`.
    """

    group_id: UUID
    name: GroupName


class InviteByEmail(Command, type="popfax.groups.invite-by-email.v1", topic=_OF_PEOPLE, key="group_id"):
    """Invite whoever has an e-mail address into the actor's group.

    A subscriber gets a mail, and `InvitationSent` answers; one who has a pending invitation already gets a new mail,
    and the link of the earlier one is void. For an address that nobody has, `AccountCreationRequired` answers. Refused
    by `InvitationRefused`, in this order, with `not_owner`, `group_closed`, `quota_owner_day`, `own_address`,
    `already_member`, `quota_owner_pending`, `quota_address_day`, `quota_address_pending`. Whatever the answer tells of
    an address counts against the owner's day, as `CreateMemberAccount` does; against the address counts the mail alone.
    """

    group_id: UUID
    email: Email


class AcceptInvitation(Command, type="popfax.groups.accept-invitation.v1", topic=_OF_PEOPLE, key="invitation_id"):
    """Accept an invitation: with the token of the mail, or, without it, as the invited subscriber (the actor).

    Answered by `InvitationAccepted` and `MemberJoined`; refused by `InvitationAnswerRefused`, in this order, with
    `unknown_invitation`, `not_invited` (the actor is somebody else, or there is neither token nor actor),
    `token_invalid` (also: it was renewed since), or, once it is not pending any more, `invitation_accepted`,
    `invitation_declined`, `invitation_revoked`, `invitation_expired` or `invitation_bounced`.
    """

    invitation_id: UUID
    token: Token | None = None


class DeclineInvitation(Command, type="popfax.groups.decline-invitation.v1", topic=_OF_PEOPLE, key="invitation_id"):
    """Decline an invitation, on the same conditions as `AcceptInvitation`.

    Answered by `InvitationDeclined`; refused by `InvitationAnswerRefused`.
    """

    invitation_id: UUID
    token: Token | None = None


class RevokeInvitation(Command, type="popfax.groups.revoke-invitation.v1", topic=_OF_PEOPLE, key="group_id"):
    """Take a pending invitation into the actor's group back.

    Answered by `InvitationRevoked`; refused by `RevocationRefused` with `not_owner`, `group_closed`,
    `unknown_invitation`, or what `AcceptInvitation` says of one that is not pending any more. One whose time is up can
    be revoked, or renewed, until it has been found to have expired.
    """

    group_id: UUID
    invitation_id: UUID


class MemberRef(BaseModel):
    """A member, and, where it is known, which of their memberships is meant: another one is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    epoch: Epoch | None = None


class DetachMembers(Command, type="popfax.groups.detach-members.v1", topic=_OF_PEOPLE, key="group_id"):
    """End the memberships of some members of the actor's group; accounts and units stay theirs.

    Each has its own outcome, which `MembersDetached` tells; a `MemberLeft` follows for each that ended. Name the epochs
    where they are known: a command that comes late then leaves later memberships alone. Refused, as a whole, by
    `DetachmentRefused` with `not_owner` or `group_closed`.
    """

    group_id: UUID
    members: Annotated[tuple[MemberRef, ...], Field(min_length=1, max_length=MAX_MEMBERS)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({member.member_id for member in self.members}) != len(self.members):
            raise ValueError("a member is named twice")
        return self


class LeaveGroup(Command, type="popfax.groups.leave-group.v1", topic=_OF_PEOPLE, key="group_id"):
    """End the actor's own membership of a group; account and units stay theirs.

    `epoch` says which, where it is known. Answered by `MemberLeft`; refused by `LeaveRefused` with `not_member`.
    """

    group_id: UUID
    epoch: Epoch | None = None


class TransferUnits(Command, type="popfax.groups.transfer-units.v1", topic=_OF_PEOPLE, key="group_id"):
    """Give units of the actor's to members of their group, for good; all of them get theirs, or none does.

    In mode `amount` each gets `amount_units`; in mode `top_up_to` each gets what brings their available units up to
    that, and who has as much already gets nothing. `members` are distinct members, or `all`. Answered by
    `UnitsTransferred`, and a `UnitsReceived` for each who got some; refused by `TransferRefused`, in this order, with
    `not_owner`, `group_closed`, `not_member` (naming them), `no_members`, `too_many_members`, and then by the ledger
    with `account_closed`, `account_expired`, `target_closed`, `units_short`.
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


# --- account creation -------------------------------------------------------------------------------------------------


class MemberAccountCreated(Event, type="popfax.groups.member-account-created.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The account exists, is paid, and is a member: the end of a `CreateMemberAccount`, for the owner's side."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    plan: PlanName
    price_units: Units


class MemberAccountRefused(
    Refusal, type="popfax.groups.member-account-refused.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """No account, no payment, no membership.

    Codes, in the order in which they are looked for: `not_owner`, `group_closed`, `unknown_plan`, `not_on_sale`,
    `price_changed`, `quota_owner_day` (one with `InviteByEmail`'s), `already_member`, `email_taken` (all before
    anything is asked of others), `account_closed`, `account_expired` (the owner's is), `units_short`, `timed_out`,
    `cancelled`, `no_fax_number`, `id_conflict`.
    """

    group_id: UUID


# --- the group, its memberships ---------------------------------------------------------------------------------------


class GroupRenamed(Event, type="popfax.groups.group-renamed.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The group has a name of its own. It may be a person's, and so is not told here."""

    group_id: UUID
    owner_id: UUID


class RenameRefused(Refusal, type="popfax.groups.rename-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The group is called what it was: `not_owner` or `group_closed`."""

    group_id: UUID


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


class Detachment(BaseModel):
    """What became of one member that was to be detached."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    outcome: Keyword
    """`detached`, or `not_member`."""


class MembersDetached(Event, type="popfax.groups.members-detached.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A `DetachMembers` is done: what became of each, in the order of the command."""

    group_id: UUID
    owner_id: UUID
    outcomes: tuple[Detachment, ...]


class DetachmentRefused(Refusal, type="popfax.groups.detachment-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody was detached: `not_owner` or `group_closed`."""

    group_id: UUID


class LeaveRefused(Refusal, type="popfax.groups.leave-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The actor is no member of the group, or not in that epoch: `not_member`."""

    group_id: UUID


class MembershipRecorded(Event, type="popfax.groups.membership-recorded.v1", topic=GROUPS_MEMBERS, key="membership_id"):
    """A membership as it is now, for whoever reads the topic from its start. A tombstone follows when it ends."""

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
    """The membership is over: compaction forgets it. Why, `MemberLeft` tells."""

    membership_id: UUID


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
    """A plan that an account could be created on, and its price today."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    plan: PlanName
    price_units: Units
    validity_months: Months


class AccountCreationRequired(
    Event, type="popfax.groups.account-creation-required.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """Nobody has the address: `CreateMemberAccount` on one of these plans would create an account for it."""

    group_id: UUID
    owner_id: UUID
    plans: tuple[PlanOffer, ...]


class InvitationRefused(Refusal, type="popfax.groups.invitation-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody was invited. The codes are `InviteByEmail`'s."""

    group_id: UUID


class InvitationAccepted(Event, type="popfax.groups.invitation-accepted.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invited subscriber accepted; `MemberJoined` comes with it."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationDeclined(Event, type="popfax.groups.invitation-declined.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invited subscriber declined."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationRevoked(Event, type="popfax.groups.invitation-revoked.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invitation is void: by the owner, or because it has lost its sense."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID
    reason: Keyword = "revoked"
    """`revoked` by the owner; `account_closed`, `group_closed`, or `joined` in another way."""


class InvitationExpired(Event, type="popfax.groups.invitation-expired.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody answered in time."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID


class InvitationBounced(Event, type="popfax.groups.invitation-bounced.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The invitation's mail came back, and the invitation ends with it."""

    group_id: UUID
    owner_id: UUID
    invitation_id: UUID
    subscriber_id: UUID
    reason: Keyword


class InvitationAnswerRefused(
    Refusal, type="popfax.groups.invitation-answer-refused.v1", topic=GROUPS_EVENTS, key="invitation_id"
):
    """The answer changed nothing. The codes are `AcceptInvitation`'s."""

    invitation_id: UUID


class RevocationRefused(Refusal, type="popfax.groups.revocation-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nothing was taken back. The codes are `RevokeInvitation`'s."""

    group_id: UUID
    invitation_id: UUID


# --- units ------------------------------------------------------------------------------------------------------------


class TransferredLeg(BaseModel):
    """What one member got: 0 when they had their preset balance already."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    member_id: UUID
    amount_units: UnitsOrNone


class UnitsTransferred(Event, type="popfax.groups.units-transferred.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Every member has what was meant for them: the end of a `TransferUnits`, for the owner's side."""

    group_id: UUID
    owner_id: UUID
    transfer_id: UUID
    mode: Keyword
    """`amount` or `top_up_to`, as it was asked for."""
    amount_units: Units
    legs: tuple[TransferredLeg, ...]
    total_units: Annotated[int, Field(strict=True, ge=0)]


class UnitsReceived(Event, type="popfax.groups.units-received.v1", topic=GROUPS_EVENTS, key="member_id"):
    """A member got units from the owner of a group: how many, and from whom, and nothing else of them."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    transfer_id: UUID
    amount_units: Units


class TransferRefused(Refusal, type="popfax.groups.transfer-refused.v1", topic=GROUPS_EVENTS, key="group_id"):
    """Nobody got anything. The codes are `TransferUnits`'s; for `not_member`, `members` are those who are none."""

    group_id: UUID
    transfer_id: UUID
    members: tuple[UUID, ...] = ()


class GroupsCommandMalformed(
    MalformedCommand, type="popfax.groups.command-malformed.v1", topic=GROUPS_EVENTS, key="parked_id"
):
    """A command to groups could not be read."""


class MembersMarker(
    Marker, type="popfax.groups.members-marker.v1", topic=GROUPS_MEMBERS, key="marker_id", tombstone=True
):
    """Nothing: it keeps Kafka compacting, and is to be left out."""


GroupsCommand = (
    CreateMemberAccount
    | RenameGroup
    | InviteByEmail
    | AcceptInvitation
    | DeclineInvitation
    | RevokeInvitation
    | DetachMembers
    | LeaveGroup
    | TransferUnits
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
    | UnitsTransferred
    | UnitsReceived
    | TransferRefused
    | GroupsCommandMalformed
)
GroupsMember = MembershipRecorded | MembershipEnded | MembersMarker
