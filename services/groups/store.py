"""What a batch of groups touches: loaded at once, saved at once."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    InviteByEmail,
    LeaveGroup,
    RenameGroup,
    RevokeInvitation,
    TransferUnits,
)
from popfax_contracts.ledger import BalanceChanged, HoldCaptured, TransfersPosted, TransfersRefused
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailUndeliverable
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExtended,
    AccountProvisioned,
    PersonErased,
    PersonRecorded,
    PlanPublished,
    SubscriberRegistered,
)
from services.chassis.database import Transaction
from services.chassis.messages import Incoming
from services.chassis.rows import Changes, Rows
from services.chassis.sagas import SagaRow, Sagas
from services.groups.commands import ANSWERING, awaiting, changed_by
from services.groups.domain import (
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    Membership,
    Plan,
    PostedCommand,
    Quotas,
    Subscriber,
    Tally,
    Transfer,
    account_of,
    history_of_membership,
    membership_of,
    no_membership,
    received_invitations_tally,
    saga_asked_by,
    sent_invitations_tally,
    unknown_subscriber,
)
from services.groups.tables import (
    COMMANDS,
    GROUPS,
    HISTORY,
    INVITATIONS,
    MEMBERSHIPS,
    PLANS,
    SAGAS,
    SUBSCRIBERS,
    TALLIES,
    TRANSFERS,
)
from services.groups.timers import InvitationDue, RetryTransfer, TransferDue


@dataclass(frozen=True, slots=True)
class Roster:
    """All that a batch names, and what follows from it; and how many invitations are allowed."""

    quotas: Quotas
    sagas: Rows[UUID, SagaRow]
    subscribers: Rows[UUID, Subscriber]
    groups: Rows[UUID, Group]
    plans: Rows[str, Plan]
    memberships: Rows[UUID, Membership]
    invitations: Rows[UUID, Invitation]
    tallies: Rows[UUID, Tally]
    transfers: Rows[UUID, Transfer]
    history: Rows[UUID, HistoryEntry]
    commands: Rows[UUID, PostedCommand]
    claimants: Mapping[str, Collection[UUID]]
    """Who may have an address that a command names, by then."""
    posted_ids: Mapping[str, UUID]
    """The ids of the commands that there are, by the correlation ids of what they began."""

    def subscriber(self, id_: UUID) -> Subscriber:
        """Give a subscriber, known or not."""
        return self.subscribers.get(id_) or unknown_subscriber(id_)

    def holder(self, email: str) -> UUID | None:
        """Give who has an address that a command names.

        Records of different people come in any order, so two may name it for a moment: then it is one of them.
        """
        claims = (id_ for id_ in self.claimants.get(email, ()) if self.subscriber(id_).email == email)
        return min(claims, default=None)

    def membership(self, group_id: UUID, owner_id: UUID, subscriber_id: UUID) -> Membership:
        """Give what is between an owner's group and a subscriber."""
        known = self.memberships.get(membership_of(group_id, subscriber_id))
        return known or no_membership(group_id, owner_id, subscriber_id)

    def group(self, group_id: UUID, owner_id: UUID) -> Group:
        """Give an owner's group, which has no name before it is told who they are."""
        return self.groups.get(group_id) or Group(group_id, owner_id, "", False, None)

    def is_closed(self, group_id: UUID) -> bool:
        """Say whether a group's owner has closed their account."""
        group = self.groups.get(group_id)
        return group is not None and group.closed_at is not None

    def posted(self, correlation_id: str) -> PostedCommand | None:
        """Give the command that began a message, if it was posted over HTTP."""
        id_ = self.posted_ids.get(correlation_id)
        return None if id_ is None else self.commands.get(id_)

    def members(self, group_id: UUID) -> list[Membership]:
        """Give the members of a group whose members were asked for, in one order for ever."""
        found = (m for m in self.memberships.values() if m.group_id == group_id and m.active)
        return sorted(found, key=lambda membership: membership.id)

    def changes(self) -> Sequence[Changes]:
        """Give what is to be saved."""
        return (
            self.sagas,
            self.subscribers,
            self.groups,
            self.plans,
            self.memberships,
            self.invitations,
            self.tallies,
            self.transfers,
            self.history,
            self.commands,
        )


async def load(sagas: Sagas, quotas: Quotas, tx: Transaction, batch: Sequence[Incoming[Message]]) -> Roster:
    """Load what a batch names: a statement a table, and a few more where a batch means rows without naming them.

    Tables are locked in this order, by all alike. Whoever ends what belongs to a subscriber or a group locks those
    first, and so does whoever adds to it: then nothing that is added can be missed.
    """
    wanted = _Wanted()
    for message in batch:
        note = _NOTES.get(type(message.body))
        if note is not None:
            note(wanted, message)
    posted = await tx.keys(COMMANDS, {"id": _correlation_ids(batch)})
    wanted.note_changes(batch, {str(id_) for id_ in posted})
    running = await tx.fetch(SAGAS, wanted.sagas | sagas.touched(batch))
    wanted.history.update(saga.id for saga in running.values())
    wanted.note_ends(map(running.get, wanted.ending_sagas))
    wanted.note_invitations((await tx.fetch(INVITATIONS, wanted.invitations, for_update=False)).values())
    wanted.subscribers |= await tx.keys(SUBSCRIBERS, {"email": {email for _, email in wanted.invited}})
    subscribers = await tx.fetch(SUBSCRIBERS, wanted.subscribers)
    wanted.note_claimants(subscribers.values())
    groups = await tx.fetch(GROUPS, wanted.groups)
    await _add_what_closes(tx, wanted)
    wanted.memberships |= await tx.keys(MEMBERSHIPS, {"group_id": wanted.whole_groups, "active": [True]})
    memberships = await tx.fetch(MEMBERSHIPS, wanted.memberships)
    wanted.note_memberships(memberships.values())
    invitations = await tx.fetch(INVITATIONS, wanted.invitations)
    wanted.note_invitations(invitations.values())
    on_sale = await tx.keys(PLANS, {}) if wanted.all_plans else set()
    transfers = await tx.fetch(TRANSFERS, wanted.transfers)
    told = {transfer.id for transfer in transfers.values()}
    wanted.history |= await tx.keys(HISTORY, {"reference_id": told}) | wanted.invitations
    commands = await tx.fetch(COMMANDS, posted | awaiting(subscribers.values()))
    return Roster(
        quotas=quotas,
        sagas=running,
        subscribers=subscribers,
        groups=groups,
        plans=await tx.fetch(PLANS, wanted.plans | on_sale, for_update=bool(wanted.plans_published)),
        memberships=memberships,
        invitations=invitations,
        tallies=await tx.fetch(TALLIES, wanted.tallies),
        transfers=transfers,
        history=await tx.fetch(HISTORY, wanted.history),
        commands=commands,
        claimants=wanted.claimants,
        posted_ids={str(command.id): command.id for command in commands.values()},
    )


async def _add_what_closes(tx: Transaction, wanted: "_Wanted") -> None:
    """Name all memberships and pending invitations of accounts and groups that close, and all of who is erased."""
    erased = list(wanted.erased)
    wanted.invitations |= await tx.keys(INVITATIONS, {"subscriber_id": erased})
    wanted.memberships |= await tx.keys(MEMBERSHIPS, {"member_id": erased})
    if not wanted.closing:
        return
    closed, groups = list(wanted.closing), [group_of(id_) for id_ in wanted.closing]
    pending = [InvitationState.PENDING.value]
    found = await tx.keys(INVITATIONS, {"subscriber_id": closed, "state": pending})
    found |= await tx.keys(INVITATIONS, {"group_id": groups, "state": pending})
    wanted.note_invitations((await tx.fetch(INVITATIONS, found, for_update=False)).values())
    wanted.memberships |= await tx.keys(MEMBERSHIPS, {"member_id": closed, "active": [True]})
    wanted.whole_groups.update(groups)


def _correlation_ids(batch: Sequence[Incoming[Message]]) -> set[UUID]:
    """Give the ids of the commands that a batch may answer: those that were posted are known by them."""
    texts = {message.correlation_id for message in batch if type(message.body) in ANSWERING}
    return {id_ for text in texts if (id_ := _uuid(text)) is not None}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def saga_of(message: Incoming[Message]) -> UUID:
    """Give the id of the saga that a command opens."""
    return saga_asked_by(message.id)


def invitation_of(message: Incoming[Message]) -> UUID:
    """Give the id of the invitation that a command makes, if it makes one."""
    return message.derive("invitation")


def renaming_of(message: Incoming[Message]) -> UUID:
    """Give the id of the line of the history that a command that renames writes."""
    return message.derive("history")


def transfer_of(message: Incoming[Message]) -> UUID:
    """Give the id of the transfer that a command asks for."""
    return message.derive("transfer")


@dataclass(slots=True)
class _Wanted:
    """The keys of the rows that a batch needs, found step by step."""

    sagas: set[UUID] = field(default_factory=set)
    ending_sagas: set[UUID] = field(default_factory=set)
    subscribers: set[UUID] = field(default_factory=set)
    claimants: dict[str, set[UUID]] = field(default_factory=dict)
    """Who has an address, and who takes it in this very batch: a holder by the time that a command's turn comes."""
    invited: list[tuple[UUID, str]] = field(default_factory=list)
    """Groups, and the addresses that they mean to take in."""
    groups: set[UUID] = field(default_factory=set)
    whole_groups: set[UUID] = field(default_factory=set)
    closing: set[UUID] = field(default_factory=set)
    erased: set[UUID] = field(default_factory=set)
    plans: set[str] = field(default_factory=set)
    plans_published: bool = False
    all_plans: bool = False
    memberships: set[UUID] = field(default_factory=set)
    invitations: set[UUID] = field(default_factory=set)
    tallies: set[UUID] = field(default_factory=set)
    transfers: set[UUID] = field(default_factory=set)
    history: set[UUID] = field(default_factory=set)

    def note_changes(self, batch: Iterable[Incoming[Message]], posted: Collection[str]) -> None:
        """What a posted command changed is looked for, and perhaps awaited, where it is shown."""
        for message in batch if posted else ():
            if message.correlation_id in posted:
                self.subscribers.update(change.subscriber_id for change in changed_by(message.body))

    def note_ends(self, sagas: Iterable[SagaRow | None]) -> None:
        """A saga that ends well adds a membership."""
        for saga in sagas:
            if saga is not None:
                group_id, member_id = UUID(saga.data["group_id"]), account_of(saga.id)
                self.groups.add(group_id)
                self.subscribers.add(member_id)
                self.memberships.add(membership_of(group_id, member_id))

    def note_invitations(self, invitations: Iterable[Invitation]) -> None:
        """An invitation that is answered, or ends, touches all that it is between."""
        for invitation in invitations:
            self.invitations.add(invitation.id)
            self.subscribers.add(invitation.subscriber_id)
            self.groups.add(invitation.group_id)
            self.memberships.add(membership_of(invitation.group_id, invitation.subscriber_id))
            self.tallies.update(
                (sent_invitations_tally(invitation.owner_id), received_invitations_tally(invitation.subscriber_id))
            )

    def note_claimants(self, subscribers: Iterable[Subscriber]) -> None:
        """Whoever has an address, or takes it in this batch, is who is invited."""
        for subscriber in subscribers:
            if subscriber.email is not None:
                self.claimants.setdefault(subscriber.email, set()).add(subscriber.id)
        for group_id, email in self.invited:
            for subscriber_id in self.claimants.get(email, ()):
                self.memberships.add(membership_of(group_id, subscriber_id))
                self.tallies.add(received_invitations_tally(subscriber_id))

    def note_memberships(self, memberships: Iterable[Membership]) -> None:
        """A membership may end, and an invitation that is pending with it."""
        for membership in memberships:
            if membership.active:
                self.history.add(history_of_membership(membership.id, membership.epoch))
            if membership.invitation_id is not None:
                self.invitations.add(membership.invitation_id)


# --- what each message names ------------------------------------------------------------------------------------------


def _create(wanted: _Wanted, message: Incoming[CreateMemberAccount]) -> None:
    command = message.body
    wanted.sagas.add(saga_of(message))
    wanted.groups.add(command.group_id)
    wanted.plans.add(command.plan)
    wanted.invited.append((command.group_id, command.email))
    if message.actor is not None:
        wanted.tallies.add(sent_invitations_tally(message.actor))


def _captured(wanted: _Wanted, message: Incoming[HoldCaptured]) -> None:
    wanted.ending_sagas.add(message.body.hold_id)


def _rename(wanted: _Wanted, message: Incoming[RenameGroup]) -> None:
    wanted.groups.add(message.body.group_id)
    wanted.history.add(renaming_of(message))


def _invite(wanted: _Wanted, message: Incoming[InviteByEmail]) -> None:
    command = message.body
    wanted.groups.add(command.group_id)
    wanted.invited.append((command.group_id, command.email))
    wanted.invitations.add(invitation_of(message))
    wanted.all_plans = True
    if message.actor is not None:
        wanted.tallies.add(sent_invitations_tally(message.actor))


def _invitation(wanted: _Wanted, message: Incoming[Any]) -> None:
    if message.body.invitation_id is not None:
        wanted.invitations.add(message.body.invitation_id)


def _revoke(wanted: _Wanted, message: Incoming[RevokeInvitation]) -> None:
    wanted.groups.add(message.body.group_id)
    wanted.invitations.add(message.body.invitation_id)


def _detach(wanted: _Wanted, message: Incoming[DetachMembers]) -> None:
    command = message.body
    wanted.groups.add(command.group_id)
    wanted.memberships.update(membership_of(command.group_id, member.member_id) for member in command.members)
    wanted.subscribers.update(member.member_id for member in command.members)


def _leave(wanted: _Wanted, message: Incoming[LeaveGroup]) -> None:
    if message.actor is not None:
        wanted.groups.add(message.body.group_id)
        wanted.subscribers.add(message.actor)
        wanted.memberships.add(membership_of(message.body.group_id, message.actor))


def _transfer(wanted: _Wanted, message: Incoming[TransferUnits]) -> None:
    command = message.body
    wanted.groups.add(command.group_id)
    wanted.transfers.add(transfer_of(message))
    if command.members == "all":
        wanted.whole_groups.add(command.group_id)
    else:
        wanted.memberships.update(membership_of(command.group_id, member_id) for member_id in command.members)


def _transferred(
    wanted: _Wanted, message: Incoming[TransfersPosted | TransfersRefused | TransferDue | RetryTransfer]
) -> None:
    wanted.transfers.add(message.body.transfer_id)


def _account(wanted: _Wanted, message: Incoming[Any]) -> None:
    wanted.subscribers.add(UUID(message.body.key()))


def _closed(wanted: _Wanted, message: Incoming[AccountClosed]) -> None:
    id_ = message.body.account_id
    wanted.subscribers.add(id_)
    wanted.groups.add(group_of(id_))
    wanted.closing.add(id_)
    wanted.erased.add(id_)


def _person(wanted: _Wanted, message: Incoming[PersonRecorded | PersonErased]) -> None:
    id_ = message.body.subscriber_id
    wanted.subscribers.add(id_)
    wanted.groups.add(group_of(id_))
    if isinstance(message.body, PersonErased):
        wanted.erased.add(id_)
    if isinstance(message.body, PersonRecorded):
        wanted.claimants.setdefault(message.body.email, set()).add(id_)


def _plan(wanted: _Wanted, message: Incoming[PlanPublished]) -> None:
    wanted.plans.add(message.body.plan)
    wanted.plans_published = True


_NOTES: Mapping[type[Message], Callable[[_Wanted, Incoming[Any]], None]] = {
    CreateMemberAccount: _create,
    HoldCaptured: _captured,
    RenameGroup: _rename,
    InviteByEmail: _invite,
    AcceptInvitation: _invitation,
    DeclineInvitation: _invitation,
    InvitationDue: _invitation,
    MailUndeliverable: _invitation,
    RevokeInvitation: _revoke,
    DetachMembers: _detach,
    LeaveGroup: _leave,
    TransferUnits: _transfer,
    TransfersPosted: _transferred,
    TransfersRefused: _transferred,
    TransferDue: _transferred,
    RetryTransfer: _transferred,
    BalanceChanged: _account,
    SubscriberRegistered: _account,
    AccountProvisioned: _account,
    AccountExtended: _account,
    AccountExpired: _account,
    AccountClosed: _closed,
    PersonRecorded: _person,
    PersonErased: _person,
    PlanPublished: _plan,
}
"""A handler asks for no row that its message does not name here; the saga engine names its own."""
