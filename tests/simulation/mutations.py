"""Deliberate bugs: each is a mistake that somebody could make tomorrow, and that the simulation must find.

A mutation is the product with one thing wrong: a different handler, or a different database.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from popfax_contracts.groups import (
    AcceptInvitation,
    DeclineInvitation,
    DetachMembers,
    InvitationAccepted,
    InvitationSent,
    InviteByEmail,
    LeaveGroup,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberRef,
    MembershipEnded,
    PayForMember,
    SetStandingOrder,
    StopStandingOrder,
    TransferUnits,
)
from popfax_contracts.ids import derive
from popfax_contracts.ledger import (
    BalanceChanged,
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    SpendRefused,
    SpendUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    CloseAccount,
    GrantPurchase,
    GrantRefused,
    PersonErased,
    ProvisionAccount,
)
from services.chassis.database import Transaction
from services.chassis.loading import NeededRows
from services.chassis.memory import MemoryTransaction
from services.chassis.messages import Incoming, Outcome
from services.chassis.sagas import SagaDeadline, Status
from services.chassis.service import AnyHandler, Moment, Service
from services.chassis.shell import Arrival, FromKafka
from services.groups.consumers import GROUPS
from services.groups.domain import OrderState, membership_of
from services.groups.store import Roster
from services.groups.timers import ORDER_LOOKS, LowBalanceDue, OrderDue
from services.ledger.consumers import LEDGER
from services.ledger.domain import HoldState
from services.ledger.store import Books
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import NumberState
from services.provisioning.store import Registry
from services.provisioning.timers import ExpiryDue
from tests.simulation.world import SERVICES, Decide, FaultyDatabase, World, exchanged


@dataclass(frozen=True, slots=True)
class Mutation:
    """The product with one mistake in it."""

    services: Sequence[Service] = SERVICES
    database: Callable[[], FaultyDatabase] = FaultyDatabase
    source: type[FromKafka] = FromKafka

    def world(self, seed: int) -> World:
        """Return the product with this mistake, for one seed."""
        return World(seed, self.services, self.database, self.source)


def _with(service: Service, handlers: Mapping[type[Message], Decide | AnyHandler]) -> Mutation:
    """Return the product with some handlers of one service replaced."""
    mutated = exchanged(service, handlers)
    return Mutation([mutated if each is service else each for each in SERVICES])


def _putting_back(service: Service, model: type[Message], table: str) -> Mutation:
    """Return the product in which a handler's changes to the rows of one table come to nothing; new rows stay."""

    def decide(state: Any, message: Incoming[Any], moment: Moment) -> Outcome:
        rows = getattr(state, table)
        before = rows.loaded()
        outcome = service.handlers[model](state, message, moment)
        for row in before:
            rows.put(row)
        return outcome

    return _with(service, {model: decide})


def _naming_no_sets(service: Service, model: type[Message], table: str) -> Mutation:
    """Return the product with one handler's needs lacking their sets of rows of one table."""
    handler = service.handlers[model]

    def needs(load: Any, message: Incoming[Any]) -> None:
        wanted: NeededRows[Any, Any] = getattr(load, table)
        by_others = {rowset: set(values) for rowset, values in wanted.asked.items()}
        handler.needs(load, message)
        wanted.asked = by_others

    return _with(service, {model: replace(handler, needs=needs)})


# --- the ledger -------------------------------------------------------------------------------------------------------


def release_burns_nothing(books: Books, message: Incoming[ReleaseHold], moment: Moment) -> Outcome:
    command = message.body
    if books.holds.find(command.hold_id) is None:
        return [HoldReleased(hold_id=command.hold_id, account_id=command.account_id, amount_units=0)]
    return LEDGER.handlers[ReleaseHold](books, message, moment)


def capture_again_and_again(books: Books, message: Incoming[CaptureHold], moment: Moment) -> Outcome:
    hold = books.holds.find(message.body.hold_id)
    if hold is not None and hold.state is HoldState.CAPTURED:
        books.holds.put(replace(hold, state=HoldState.OPEN))
    return LEDGER.handlers[CaptureHold](books, message, moment)


def holds_are_not_kept_back(books: Books, message: Incoming[ReserveUnits], moment: Moment) -> Outcome:
    before = books.accounts.find(message.body.account_id)
    outcome = LEDGER.handlers[ReserveUnits](books, message, moment)
    if before is not None:
        books.accounts.put(before)
    return outcome


def half_a_transfer(books: Books, message: Incoming[PostTransfers], moment: Moment) -> Outcome:
    outcome = LEDGER.handlers[PostTransfers](books, message, moment)
    if len(message.body.legs) > 1 and books.entries.rows:
        books.entries.rows.pop()
    return outcome


# --- the saga ---------------------------------------------------------------------------------------------------------


def the_member_pays(roster: Roster, message: Incoming[PayForMember], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[PayForMember](roster, message, moment)
    return [
        each.model_copy(update={"account_id": message.body.member_id}) if isinstance(each, ReserveUnits) else each
        for each in outcome
    ]


def paid_and_not_granted(roster: Roster, message: Incoming[GrantRefused], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[GrantRefused](roster, message, moment)
    return [
        CaptureHold(hold_id=each.hold_id, account_id=each.account_id) if isinstance(each, ReleaseHold) else each
        for each in outcome
    ]


def granted_and_not_given(registry: Registry, message: Incoming[GrantPurchase], moment: Moment) -> Outcome:
    before = registry.subscribers.find(message.body.account_id)
    outcome = PROVISIONING.handlers[GrantPurchase](registry, message, moment)
    if before is not None:
        registry.subscribers.put(before)
    return outcome


def no_compensation(roster: Roster, message: Incoming[AccountRefused], moment: Moment) -> Outcome:
    """Refuse at once, without releasing the hold."""
    outcome = GROUPS.handlers[AccountRefused](roster, message, moment)
    saga = roster.sagas.find(message.body.request_id)
    if saga is None or not any(isinstance(effect, ReleaseHold) for effect in outcome):
        return outcome
    kept = {name: saga.data[name] for name in ("group_id", "owner_id")}
    roster.sagas.put(replace(saga, status=Status.REFUSED, data=kept))
    group_id = UUID(saga.data["group_id"])
    return [MemberAccountRefused(group_id=group_id, code=message.body.code, command_type="")]


def deadline_assumes_the_worst(roster: Roster, message: Incoming[SagaDeadline], moment: Moment) -> Outcome:
    """Assume at the deadline that the account was not created, without asking."""
    saga = roster.sagas.find(message.body.saga_id)
    outcome = GROUPS.handlers[SagaDeadline](roster, message, moment)
    if saga is None or not any(isinstance(effect, CancelProvisioning) for effect in outcome):
        return outcome
    roster.sagas.put(replace(saga, status=Status.COMPENSATING, step="reserve units", code="timed_out"))
    return [ReleaseHold(hold_id=saga.id, account_id=UUID(saga.data["owner_id"]))]


def capture_is_forgotten(roster: Roster, message: Incoming[AccountProvisioned], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[AccountProvisioned](roster, message, moment)
    return [effect for effect in outcome if not isinstance(effect, CaptureHold)]


def no_membership(roster: Roster, message: Incoming[HoldCaptured], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[HoldCaptured](roster, message, moment)
    for membership in roster.memberships.loaded():
        roster.memberships.remove(membership.id)
    return outcome


# --- groups -----------------------------------------------------------------------------------------------------------


def accepted_and_still_pending(roster: Roster, message: Incoming[AcceptInvitation], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[AcceptInvitation](roster, message, moment)
    for told in outcome:
        if isinstance(told, InvitationAccepted):
            membership = roster.memberships[membership_of(told.group_id, told.subscriber_id)]
            roster.memberships.put(replace(membership, invitation_id=told.invitation_id))
    return outcome


def first_token_stays_good(roster: Roster, message: Incoming[InviteByEmail], moment: Moment) -> Outcome:
    before = {invitation.id: invitation for invitation in roster.invitations.loaded()}
    outcome = GROUPS.handlers[InviteByEmail](roster, message, moment)
    for told in outcome:
        if isinstance(told, InvitationSent) and told.renewed:
            invitation = roster.invitations[told.invitation_id]
            roster.invitations.put(replace(invitation, token_hash=before[invitation.id].token_hash))
    return outcome


def detaches_whichever_epoch(roster: Roster, message: Incoming[DetachMembers], moment: Moment) -> Outcome:
    members = tuple(MemberRef(member_id=member.member_id) for member in message.body.members)
    body = message.body.model_copy(update={"members": members})
    return GROUPS.handlers[DetachMembers](roster, replace(message, body=body), moment)


def no_tombstone(roster: Roster, message: Incoming[DetachMembers], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[DetachMembers](roster, message, moment)
    return [effect for effect in outcome if not isinstance(effect, MembershipEnded)]


def done_before_it_is_seen(roster: Roster, message: Incoming[TransfersPosted], moment: Moment) -> Outcome:
    legs = tuple(leg.model_copy(update={"version": 0}) for leg in message.body.legs)
    body = message.body.model_copy(update={"version": 0, "legs": legs})
    return GROUPS.handlers[TransfersPosted](roster, replace(message, body=body), moment)


def created_before_it_is_paid(roster: Roster, message: Incoming[HoldCaptured], moment: Moment) -> Outcome:
    body = message.body.model_copy(update={"version": 0})
    return GROUPS.handlers[HoldCaptured](roster, replace(message, body=body), moment)


def tells_every_hour(roster: Roster, message: Incoming[LowBalanceDue], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[LowBalanceDue](roster, message, moment)
    setting = roster.low_balances.find(message.body.group_id)
    if outcome and setting is not None:
        soon = moment.now + timedelta(hours=1)
        roster.low_balances.put(replace(setting, look_at=soon, mailed_on=None, low=()))
    return outcome


def closed_and_still_a_member(roster: Roster, message: Incoming[AccountClosed], moment: Moment) -> Outcome:
    before = [each for each in roster.memberships.loaded() if each.member_id == message.body.account_id]
    outcome = GROUPS.handlers[AccountClosed](roster, message, moment)
    for membership in before:
        roster.memberships.put(membership)
    return outcome


# --- the other services -----------------------------------------------------------------------------------------------


def number_stays_free(registry: Registry, message: Incoming[ProvisionAccount], moment: Moment) -> Outcome:
    outcome = PROVISIONING.handlers[ProvisionAccount](registry, message, moment)
    for number in registry.fax_numbers.loaded():
        registry.fax_numbers.put(replace(number, state=NumberState.FREE, subscriber_id=None))
    return outcome


def cancel_leaves_no_trace(registry: Registry, message: Incoming[CancelProvisioning], moment: Moment) -> Outcome:
    """Answer a cancellation, but grant the request if it arrives late."""
    unknown = registry.requests.find(message.body.request_id) is None
    outcome = PROVISIONING.handlers[CancelProvisioning](registry, message, moment)
    if unknown:
        registry.requests.remove(message.body.request_id)
    return outcome


def no_receipt(tray: Any, message: Incoming[MemberAccountCreated], moment: Moment) -> Outcome:
    outcome = NOTIFICATIONS.handlers[MemberAccountCreated](tray, message, moment)
    for mail in tray.mails.loaded():
        if mail.template == "receipt":
            tray.mails.remove(mail.id)
    return outcome


def reminds_for_ever(registry: Registry, message: Incoming[ExpiryDue], moment: Moment) -> Outcome:
    """Publish what is due, and leave it due."""
    before = registry.subscribers.find(message.body.account_id)
    outcome = PROVISIONING.handlers[ExpiryDue](registry, message, moment)
    after = registry.subscribers.find(message.body.account_id)
    if before is not None and after is not None:
        registry.subscribers.put(replace(after, reminded_days=before.reminded_days))
    return outcome


def declared_by_row(service: Service, model: type[Message]) -> Mutation:
    """Return the product in which a type of message has no row of the inbox, though it needs one."""
    handlers = {**service.handlers, model: replace(service.handlers[model], once_by="nothing")}
    return Mutation([replace(each, handlers=handlers) if each is service else each for each in SERVICES])


def repeated_reply_is_noted(roster: Roster, message: Incoming[UnitsReserved], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[UnitsReserved](roster, message, moment)
    saga = roster.sagas.find(message.body.hold_id)
    if saga is not None:
        roster.sagas.put(replace(saga, updated_at=moment.now))
    return outcome


def without_alarms(service: Service) -> Mutation:
    """Return the product in which nothing of a service's rows is ever due."""
    return Mutation([replace(each, alarms=()) if each is service else each for each in SERVICES])


def given_and_not_paid(registry: Registry, message: Incoming[UnitsReserved], moment: Moment) -> Outcome:
    outcome = PROVISIONING.handlers[UnitsReserved](registry, message, moment)
    saga = registry.sagas.find(message.body.hold_id)
    if saga is None or not any(isinstance(effect, CaptureHold) for effect in outcome):
        return outcome
    registry.sagas.put(replace(saga, status=Status.COMPLETED, data={}, ended_at=moment.now))
    purchase = registry.purchases[UUID(saga.data["request_id"])]
    registry.purchases.put(purchase.done(moment.now))
    return [effect for effect in outcome if not isinstance(effect, CaptureHold)]


def expired_and_still_spending(books: Books, message: Incoming[AccountExpired], moment: Moment) -> Outcome:
    return ()


def undeclared_code(books: Books, message: Incoming[SpendUnits], moment: Moment) -> Outcome:
    """Refuse with a code that was renamed here and nowhere else."""
    outcome = LEDGER.handlers[SpendUnits](books, message, moment)
    return [
        each.model_copy(update={"code": "no_units"}) if isinstance(each, SpendRefused) else each for each in outcome
    ]


def untold_balance(books: Books, message: Incoming[SpendUnits], moment: Moment) -> Outcome:
    outcome = LEDGER.handlers[SpendUnits](books, message, moment)
    return [effect for effect in outcome if not isinstance(effect, BalanceChanged)]


def welcomed_twice(tray: Any, message: Incoming[MemberAccountCreated], moment: Moment) -> Outcome:
    outcome = NOTIFICATIONS.handlers[MemberAccountCreated](tray, message, moment)
    for mail in tray.mails.loaded():
        if mail.template == "welcome":
            tray.mails.put(replace(mail, id=derive(mail.id, "again")))
    return outcome


def never_forgotten(tray: Any, message: Incoming[PersonErased], moment: Moment) -> Outcome:
    before = tray.people.get(message.body.subscriber_id)
    outcome = NOTIFICATIONS.handlers[PersonErased](tray, message, moment)
    if before is not None:
        tray.people.put(before)
    return outcome


# --- standing orders --------------------------------------------------------------------------------------------------


def stopped_and_still_due(roster: Roster, message: Incoming[StopStandingOrder], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[StopStandingOrder](roster, message, moment)
    for order in roster.orders.loaded():
        if order.state is OrderState.STOPPED:
            roster.orders.put(order.due(moment.now))
    return outcome


def change_forgets_what_is_open(roster: Roster, message: Incoming[SetStandingOrder], moment: Moment) -> Outcome:
    outcome = GROUPS.handlers[SetStandingOrder](roster, message, moment)
    for order in roster.orders.loaded():
        if order.state is OrderState.ACTIVE and order.transfer_id is not None:
            roster.orders.put(replace(order, transfer_id=None).due(moment.now))
    return outcome


def asks_beyond_the_bound(roster: Roster, message: Incoming[OrderDue], moment: Moment) -> Outcome:
    """Trust the ledger to reckon, however little the bound leaves."""
    order = roster.orders.find(message.body.order_id)
    if order is None or order.monthly_bound_units is None:
        return GROUPS.handlers[OrderDue](roster, message, moment)
    bound = order.monthly_bound_units
    roster.orders.put(replace(order, monthly_bound_units=bound + (order.target_units or 0)))
    outcome = GROUPS.handlers[OrderDue](roster, message, moment)
    roster.orders.put(replace(roster.orders[order.id], monthly_bound_units=bound))
    for transfer in roster.transfers.loaded():
        if transfer.order_id == order.id:
            roster.transfers.put(replace(transfer, bound_units=bound))
    return outcome


def paid_month_is_owed_again(roster: Roster, message: Incoming[TransfersPosted], moment: Moment) -> Outcome:
    before = {order.id: order for order in roster.orders.loaded()}
    outcome = GROUPS.handlers[TransfersPosted](roster, message, moment)
    for order in roster.orders.loaded():
        if (earlier := before.get(order.id)) is not None and order != earlier:
            roster.orders.put(replace(order, next_month=earlier.next_month))
    return outcome


def nobody_looks_at_orders() -> Mutation:
    """Return the product in which standing orders are never due."""
    alarms = tuple(alarm for alarm in GROUPS.alarms if alarm is not ORDER_LOOKS)
    return Mutation([replace(each, alarms=alarms) if each is GROUPS else each for each in SERVICES])


# --- the chassis ------------------------------------------------------------------------------------------------------


class _ForgetfulTransaction(MemoryTransaction):
    async def claim_inbox(self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()) -> Collection[UUID]:
        return {*ids, *looked_up}


class ForgetfulDatabase(FaultyDatabase):
    """An inbox that remembers nothing."""

    @asynccontextmanager
    async def begin(self) -> Any:
        async with super().begin() as tx:
            yield _ForgetfulTransaction(tx.contents)


class ByIdAlone(FromKafka):
    """An inbox that identifies a message by its CloudEvents id alone, whatever its topic and source."""

    async def claim(
        self, tx: Transaction, arrivals: Sequence[Arrival], now: datetime, by_row: Collection[type[Message]]
    ) -> Collection[UUID]:
        first: dict[UUID, UUID] = {}
        for arrival in arrivals:
            sent_id = arrival.sent_id if isinstance(arrival, Incoming) else None
            first.setdefault(arrival.id if sent_id is None else derive(_SENT, sent_id), arrival.id)
        return {first[known] for known in await tx.claim_inbox(list(first), now)}


_SENT = UUID(int=5)


class LossyDatabase(FaultyDatabase):
    """An outbox that is filled after the commit: an outage in between loses the messages."""

    @asynccontextmanager
    async def begin(self) -> Any:
        fault = self.fault
        sent: list[Any] = []
        try:
            async with super().begin() as tx:
                before = len(tx.contents.outbox)
                yield tx
                sent = tx.contents.outbox[before:]
                del tx.contents.outbox[before:]
        finally:
            if fault is None:
                self.contents.outbox.extend(sent)


class BlindDatabase(FaultyDatabase):
    """A database that doesn't block a parked message's key, so that later messages overtake it."""

    @asynccontextmanager
    async def begin(self) -> Any:
        async with super().begin() as tx:
            yield tx
            tx.contents.blocked.clear()


NOT_NAMED: Final[Mapping[str, Mutation]] = {
    "a transfer to all names no members": _naming_no_sets(GROUPS, TransferUnits, "memberships"),
    "the end of an account names no memberships": _naming_no_sets(GROUPS, AccountClosed, "memberships"),
    "an erasure names no mails that wait": _naming_no_sets(NOTIFICATIONS, PersonErased, "mails"),
}
"""Needs that omit a set of rows. Reading the set raises, the first time it is read."""

MUTATIONS: Final[Mapping[str, Mutation]] = {
    "a release that comes first burns nothing": _with(LEDGER, {ReleaseHold: release_burns_nothing}),
    "a capture is done as often as it is asked for": _with(LEDGER, {CaptureHold: capture_again_and_again}),
    "held units can be spent": _with(LEDGER, {ReserveUnits: holds_are_not_kept_back}),
    "a transfer is written by half": _with(LEDGER, {PostTransfers: half_a_transfer}),
    "a refused saga does not compensate": _with(GROUPS, {AccountRefused: no_compensation}),
    "a deadline assumes the outcome of the pivot": _with(GROUPS, {SagaDeadline: deadline_assumes_the_worst}),
    "the capture is never asked for": _with(GROUPS, {AccountProvisioned: capture_is_forgotten}),
    "a member pays for what the owner wants to pay": _with(GROUPS, {PayForMember: the_member_pays}),
    "what an owner pays for is not given": _with(PROVISIONING, {GrantPurchase: granted_and_not_given}),
    "a refused grant is paid all the same": _with(GROUPS, {GrantRefused: paid_and_not_granted}),
    "the membership is not written": _with(GROUPS, {HoldCaptured: no_membership}),
    "an accepted invitation is pending still": _with(GROUPS, {AcceptInvitation: accepted_and_still_pending}),
    "the link of an earlier mail opens a renewed invitation": _with(GROUPS, {InviteByEmail: first_token_stays_good}),
    "a late detachment ends the membership that followed": _with(GROUPS, {DetachMembers: detaches_whichever_epoch}),
    "the topic of members keeps who was detached": _with(GROUPS, {DetachMembers: no_tombstone}),
    "a declined invitation counts as pending": _putting_back(GROUPS, DeclineInvitation, "tallies"),
    "the history waits for a transfer that is done": _putting_back(GROUPS, TransfersPosted, "history"),
    "a transfer is done before it is to be seen": _with(GROUPS, {TransfersPosted: done_before_it_is_seen}),
    "an account is created before its payment is to be seen": _with(GROUPS, {HoldCaptured: created_before_it_is_paid}),
    "an answer that matters to others is passed over": Mutation(
        [
            replace(each, for_requester=each.for_requester | {AccountClosed}) if each is GROUPS else each
            for each in SERVICES
        ]
    ),
    "a closed account stays a member": _with(GROUPS, {AccountClosed: closed_and_still_a_member}),
    "who is low is told every hour": _with(GROUPS, {LowBalanceDue: tells_every_hour}),
    "an account's end is announced again and again": _with(PROVISIONING, {ExpiryDue: reminds_for_ever}),
    "a capture is claimed by its hold": declared_by_row(LEDGER, CaptureHold),
    "a repeated reply is noted": _with(GROUPS, {UnitsReserved: repeated_reply_is_noted}),
    "nobody looks for accounts that end": without_alarms(PROVISIONING),
    "a closed account keeps its address": _putting_back(PROVISIONING, CloseAccount, "addresses"),
    "something is given and not paid": _with(PROVISIONING, {UnitsReserved: given_and_not_paid}),
    "an expired account spends": _with(LEDGER, {AccountExpired: expired_and_still_spending}),
    "a command is refused with a code that it does not declare": _with(LEDGER, {SpendUnits: undeclared_code}),
    "a balance is not told": _with(LEDGER, {SpendUnits: untold_balance}),
    "a member is welcomed twice": _with(NOTIFICATIONS, {MemberAccountCreated: welcomed_twice}),
    "a person is never forgotten": _with(NOTIFICATIONS, {PersonErased: never_forgotten}),
    "a fax number stays free": _with(PROVISIONING, {ProvisionAccount: number_stays_free}),
    "a cancellation is not remembered": _with(PROVISIONING, {CancelProvisioning: cancel_leaves_no_trace}),
    "the owner gets no receipt": _with(NOTIFICATIONS, {MemberAccountCreated: no_receipt}),
    "a standing order is due after its stop": _with(GROUPS, {StopStandingOrder: stopped_and_still_due}),
    "a changed standing order forgets what is open": _with(GROUPS, {SetStandingOrder: change_forgets_what_is_open}),
    "a balance sets no standing order off": _putting_back(GROUPS, BalanceChanged, "orders"),
    "a standing order survives its membership": _putting_back(GROUPS, LeaveGroup, "orders"),
    "a standing order asks beyond its bound": _with(GROUPS, {OrderDue: asks_beyond_the_bound}),
    "a paid month is owed again": _with(GROUPS, {TransfersPosted: paid_month_is_owed_again}),
    "a refused standing order waits forever": _putting_back(GROUPS, TransfersRefused, "orders"),
    "nobody looks at standing orders": nobody_looks_at_orders(),
    "the inbox forgets": Mutation(database=ForgetfulDatabase),
    "the inbox tells messages by their ids alone": Mutation(source=ByIdAlone),
    "the outbox is not part of the transaction": Mutation(database=LossyDatabase),
    "a parked message does not block its key": Mutation(database=BlindDatabase),
}
"""All mutations, by their description."""

FOUND_BY: Final[Mapping[str, int]] = {
    "a release that comes first burns nothing": 91,
    "a capture is done as often as it is asked for": 32,
    "a late detachment ends the membership that followed": 86,
    "a transfer is done before it is to be seen": 204,
    "an account is created before its payment is to be seen": 73,
    "an answer that matters to others is passed over": 32,
    "a closed account keeps its address": 32,
    "something is given and not paid": 14,
    "a member is welcomed twice": 2,
    "a person is never forgotten": 4,
    "an account's end is announced again and again": 37,
    "a cancellation is not remembered": 40,
    "a balance sets no standing order off": 163,
    "a standing order survives its membership": 23,
    "a standing order asks beyond its bound": 153,
    "a refused standing order waits forever": 128,
}
"""A seed to try first: one of the few that find the mistake, or one that finds it quickly. One that no longer does
costs time, no more.

With some mistakes, most stories never come to rest, and last until their rounds are limited.
"""
