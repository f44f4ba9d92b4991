"""What a batch of groups touches: loaded at once, saved at once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from popfax_contracts.message import Message
from services.chassis.database import Transaction
from services.chassis.envelopes import id_of
from services.chassis.loading import NeededRows
from services.chassis.messages import Incoming
from services.chassis.rows import Changes, NotLoaded, Rows
from services.chassis.sagas import SagaRow
from services.groups.commands import awaiting, changed_by
from services.groups.domain import (
    Group,
    HistoryEntry,
    Invitation,
    LowBalance,
    Membership,
    Option,
    Plan,
    PostedCommand,
    Quotas,
    StandingOrder,
    Subscriber,
    Tally,
    Transfer,
    history_of_membership,
    membership_of,
    no_membership,
    order_of,
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
    LOW_BALANCES,
    MEMBERS,
    MEMBERSHIPS,
    OPTIONS,
    ORDERS,
    PENDING_OF_GROUP,
    PLANS,
    SAGAS,
    SUBSCRIBERS,
    TALLIES,
    TRANSFERS,
    WITH_EMAIL,
)


@dataclass(frozen=True, slots=True)
class Roster:
    """The rows that a batch names, the rows that these lead to, and the quotas."""

    quotas: Quotas
    sagas: Rows[UUID, SagaRow]
    subscribers: Rows[UUID, Subscriber]
    groups: Rows[UUID, Group]
    low_balances: Rows[UUID, LowBalance]
    watched: Mapping[UUID, Sequence[Subscriber]]
    """The members of the groups that are looked at, as they were when the batch began: nothing here is locked."""
    plans: Rows[str, Plan]
    options: Rows[str, Option]
    memberships: Rows[UUID, Membership]
    invitations: Rows[UUID, Invitation]
    tallies: Rows[UUID, Tally]
    transfers: Rows[UUID, Transfer]
    orders: Rows[UUID, StandingOrder]
    history: Rows[UUID, HistoryEntry]
    commands: Rows[UUID, PostedCommand]
    posted_ids: Mapping[str, UUID | None]
    """The posted command that began a message, by its correlation id: None where it was not posted."""

    def subscriber(self, id_: UUID) -> Subscriber:
        """Return a subscriber, known or not."""
        return self.subscribers.find(id_) or unknown_subscriber(id_)

    def holder(self, email: str) -> UUID | None:
        """Return the holder of an address that a command names.

        Records of different people arrive in any order, so two may briefly have it: then it is one of them.
        """
        return min((each.id for each in self.subscribers.all(WITH_EMAIL, email)), default=None)

    def membership(self, group_id: UUID, owner_id: UUID, subscriber_id: UUID) -> Membership:
        """Return a subscriber's membership in an owner's group."""
        known = self.memberships.find(membership_of(group_id, subscriber_id))
        return known or no_membership(group_id, owner_id, subscriber_id)

    def group(self, group_id: UUID, owner_id: UUID) -> Group:
        """Return an owner's group, which has no name until the owner's record arrives."""
        return self.groups.find(group_id) or Group(group_id, owner_id, "", False, None)

    def is_closed(self, group_id: UUID) -> bool:
        """Say whether a group's owner has closed their account."""
        group = self.groups.find(group_id)
        return group is not None and group.closed_at is not None

    def posted(self, correlation_id: str) -> PostedCommand | None:
        """Return the command that began a message, if it was posted over HTTP."""
        try:
            id_ = self.posted_ids[correlation_id]
        except KeyError:
            raise NotLoaded(f"the command that began {correlation_id}") from None
        return None if id_ is None else self.commands.find(id_)

    def members(self, group_id: UUID) -> list[Membership]:
        """Return the members of a group, always in the same order."""
        return self.memberships.all(MEMBERS, group_id)

    def changes(self) -> Sequence[Changes]:
        """Return what is to be saved."""
        return (
            self.sagas,
            self.subscribers,
            self.groups,
            self.low_balances,
            self.plans,
            self.options,
            self.memberships,
            self.invitations,
            self.tallies,
            self.transfers,
            self.orders,
            self.history,
            self.commands,
        )


class LoadPlan:
    """What a batch of groups needs.

    Every transaction locks the tables in the same order. One that ends everything of a subscriber or a group locks that
    row first, and so does one that adds to it, so that no addition can be missed.
    """

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.sagas: NeededRows[UUID, SagaRow] = NeededRows(SAGAS)
        self.subscribers: NeededRows[UUID, Subscriber] = NeededRows(SUBSCRIBERS)
        self.groups: NeededRows[UUID, Group] = NeededRows(GROUPS)
        self.low_balances: NeededRows[UUID, LowBalance] = NeededRows(LOW_BALANCES)
        self.watched: set[UUID] = set()
        """Groups whose members' units are looked at."""
        self.plans: NeededRows[str, Plan] = NeededRows(PLANS)
        self.changes_plans = False
        self.options: NeededRows[str, Option] = NeededRows(OPTIONS)
        self.memberships: NeededRows[UUID, Membership] = NeededRows(MEMBERSHIPS)
        self.invitations: NeededRows[UUID, Invitation] = NeededRows(INVITATIONS)
        self.ending_groups: set[UUID] = set()
        """Groups that close, and with them every membership and invitation."""
        self.tallies: NeededRows[UUID, Tally] = NeededRows(TALLIES)
        self.transfers: NeededRows[UUID, Transfer] = NeededRows(TRANSFERS)
        self.orders: NeededRows[UUID, StandingOrder] = NeededRows(ORDERS)
        self.history: NeededRows[UUID, HistoryEntry] = NeededRows(HISTORY)
        self.leaving = False
        """Whether memberships may end, and their standing orders with them."""
        self.addressed: list[tuple[UUID, str]] = []
        """Groups, and the addresses of people who may join them."""
        self.taking: list[tuple[str, UUID]] = []
        """Addresses that somebody takes in this very batch, and who: the holder when a later message is handled."""
        self.answering: list[Incoming[Message]] = []
        """What may answer a posted command."""

    def take_in(self, group_id: UUID, email: str) -> None:
        """Name the membership between a group and an address's holder."""
        self.subscribers.add_all(WITH_EMAIL, email)
        self.addressed.append((group_id, email))

    def end_group(self, group_id: UUID) -> None:
        """Name a group and everything that belongs to it."""
        self.groups.add(group_id)
        self.memberships.add_all(MEMBERS, group_id)
        self.invitations.add_all(PENDING_OF_GROUP, group_id)
        self.ending_groups.add(group_id)

    async def fetch(self, tx: Transaction) -> Roster:
        """Fetch it, with one statement per table, and one or two more for rows that a batch does not name by key.

        A round trip asks for all that is named by then; tables that nothing names cost none.
        """
        texts = {message.correlation_id for message in self.answering}
        posting = tx.keys(COMMANDS, {"id": {id_ for text in texts if (id_ := id_of(text.encode())) is not None}})
        advancing = self.sagas.fetch(tx)
        self._follow_invitations(await tx.fetch(INVITATIONS, self.invitations, for_update=False))
        posted, sagas = self._posted(texts, await posting), await advancing
        naming, owned, choosing = self.subscribers.fetch(tx), self.groups.fetch(tx), self.low_balances.fetch(tx)
        subscribers, groups, low_balances = await naming, await owned, await choosing
        self._follow_addresses(subscribers)
        await self._find_what_ends(tx)
        memberships = await self.memberships.fetch(tx)
        self._follow_memberships(memberships)
        inviting, moving = self.invitations.fetch(tx), self.transfers.fetch(tx)
        invitations, transfers = await inviting, await moving
        self._follow_invitations(invitations)
        self.history |= self.invitations
        ordered = self.orders.fetch(tx)
        answered = {id_ for id_ in posted.values() if id_ is not None}
        commands = tx.fetch(COMMANDS, answered | awaiting(subscribers.loaded()))
        plans, options = self.plans.fetch(tx, for_update=self.changes_plans), self.options.fetch(tx)
        tallies = self.tallies.fetch(tx)
        history = self.history.fetch(tx)
        return Roster(
            quotas=self.quotas,
            sagas=sagas,
            subscribers=subscribers,
            groups=groups,
            low_balances=low_balances,
            watched=await self._watch(tx),
            memberships=memberships,
            invitations=invitations,
            transfers=transfers,
            orders=await ordered,
            commands=await commands,
            plans=await plans,
            options=await options,
            tallies=await tallies,
            history=await history,
            posted_ids=posted,
        )

    async def _watch(self, tx: Transaction) -> Mapping[UUID, Sequence[Subscriber]]:
        """Read the members of whole groups, without a lock: there may be thousands, whose balances go on changing."""
        if not self.watched:
            return {}
        found: NeededRows[UUID, Membership] = NeededRows(MEMBERSHIPS)
        for group_id in self.watched:
            found.add_all(MEMBERS, group_id)
        members = await found.fetch(tx, for_update=False)
        ids = {membership.member_id for membership in members.loaded()}
        known = await tx.fetch(SUBSCRIBERS, ids, for_update=False)
        return {
            group_id: [known.find(id_) or unknown_subscriber(id_) for id_ in _ids(members.all(MEMBERS, group_id))]
            for group_id in self.watched
        }

    def _posted(self, texts: Iterable[str], found: Iterable[UUID]) -> dict[str, UUID | None]:
        """Return the commands that the batch may answer, by correlation id: None for one that was not posted.

        The changes of a posted command are looked up, and perhaps awaited, in the subscribers' rows.
        """
        known = {str(id_): id_ for id_ in found}
        for message in self.answering if known else ():
            if message.correlation_id in known:
                self.subscribers.update(change.subscriber_id for change in changed_by(message.body))
        return {text: known.get(text) for text in texts}

    async def _find_what_ends(self, tx: Transaction) -> None:
        """Find the invitations of erased people and of closing groups. Those that end need their memberships."""
        await self.invitations.find(tx)
        if self.ending_groups:
            ending = await tx.fetch(INVITATIONS, self.invitations, for_update=False)
            self._follow_invitations(ending)

    def _follow_invitations(self, invitations: Rows[UUID, Invitation]) -> None:
        """Add the memberships of invitations that are answered, or end."""
        for invitation in invitations.loaded():
            self.subscribers.add(invitation.subscriber_id)
            self.groups.add(invitation.group_id)
            self.memberships.add(membership_of(invitation.group_id, invitation.subscriber_id))
            self.tallies.update(
                (sent_invitations_tally(invitation.owner_id), received_invitations_tally(invitation.subscriber_id))
            )

    def _follow_addresses(self, subscribers: Rows[UUID, Subscriber]) -> None:
        """Resolve addresses to their holders, including those who take one in this batch."""
        taking: dict[str, set[UUID]] = {}
        for email, subscriber_id in self.taking:
            taking.setdefault(email, set()).add(subscriber_id)
        for group_id, email in self.addressed:
            holders = {subscriber.id for subscriber in subscribers.all(WITH_EMAIL, email)}
            for subscriber_id in holders | taking.get(email, set()):
                self.memberships.add(membership_of(group_id, subscriber_id))
                self.tallies.add(received_invitations_tally(subscriber_id))

    def _follow_memberships(self, memberships: Rows[UUID, Membership]) -> None:
        """Add the pending invitations of memberships, which may end together."""
        for membership in memberships.loaded():
            if membership.active:
                self.history.add(history_of_membership(membership.id, membership.epoch))
            if membership.invitation_id is not None:
                self.invitations.add(membership.invitation_id)
        if self.leaving:  # those too that begin in this very batch
            self.orders.update(map(order_of, self.memberships))


def order_line_of(message: Incoming[Message]) -> UUID:
    """Return the id of the history line that a command about a standing order writes."""
    return message.derive("order")


def _ids(members: Iterable[Membership]) -> Iterable[UUID]:
    return (member.member_id for member in members)


def saga_of(message: Incoming[Message]) -> UUID:
    """Return the id of the saga that a command opens."""
    return saga_asked_by(message.id)


def invitation_of(message: Incoming[Message]) -> UUID:
    """Return the id of the invitation that a command makes, if it makes one."""
    return message.derive("invitation")


def renaming_of(message: Incoming[Message]) -> UUID:
    """Return the id of the history line that a renaming command writes."""
    return message.derive("history")


def payment_of(message: Incoming[Message]) -> UUID:
    """Return the id of the saga, and so of the payment, that a command asks for."""
    return message.derive("payment")


def transfer_of(message: Incoming[Message]) -> UUID:
    """Return the id of the transfer that a command asks for."""
    return message.derive("transfer")
