"""Bugs made on purpose: each is a mistake that somebody could make tomorrow, and that the simulation must find.

A mutation is the product with one thing wrong: services whose handlers differ, or a database that does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from contracts.groups import MemberAccountCreated, MemberAccountRefused
from contracts.ledger import CaptureHold, HoldCaptured, HoldReleased, PostTransfers, ReleaseHold, ReserveUnits
from contracts.message import Message
from contracts.provisioning import AccountProvisioned, AccountRefused, CancelProvisioning, ProvisionAccount
from services._platform.memory import MemoryTransaction
from services._platform.messages import Incoming, Outcome
from services._platform.sagas import SagaDeadline, Status
from services._platform.service import Handler, Moment, Service
from services.groups.consumers import GROUPS
from services.groups.store import Roster
from services.ledger.consumers import LEDGER
from services.ledger.domain import HoldState
from services.ledger.store import Books
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import NumberState
from services.provisioning.store import Registry
from tests.simulation.world import SERVICES, FaultyDatabase


@dataclass(frozen=True, slots=True)
class Mutation:
    """The product with one mistake in it."""

    services: Sequence[Service] = SERVICES
    database: Callable[[], FaultyDatabase] = FaultyDatabase


def _with(service: Service, handlers: Mapping[type[Message], Handler]) -> Mutation:
    """Give the product with some handlers of one service exchanged."""
    mutated = replace(service, handlers={**service.handlers, **handlers})
    return Mutation([mutated if each is service else each for each in SERVICES])


# --- the ledger -------------------------------------------------------------------------------------------------------


def release_burns_nothing(books: Books, message: Incoming[ReleaseHold], moment: Moment) -> Outcome:
    command = message.body
    if books.holds.get(command.hold_id) is None:
        return [HoldReleased(hold_id=command.hold_id, account_id=command.account_id, amount_units=0)]
    return LEDGER.handlers[ReleaseHold](books, message, moment)


def capture_again_and_again(books: Books, message: Incoming[CaptureHold], moment: Moment) -> Outcome:
    hold = books.holds.get(message.body.hold_id)
    if hold is not None and hold.state is HoldState.CAPTURED:
        books.holds.put(replace(hold, state=HoldState.OPEN))
    return LEDGER.handlers[CaptureHold](books, message, moment)


def holds_are_not_kept_back(books: Books, message: Incoming[ReserveUnits], moment: Moment) -> Outcome:
    before = books.accounts.get(message.body.account_id)
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


def no_compensation(roster: Roster, message: Incoming[AccountRefused], moment: Moment) -> Outcome:
    """Refuse at once and leave the hold to itself."""
    outcome = GROUPS.handlers[AccountRefused](roster, message, moment)
    saga = roster.sagas.get(message.body.request_id)
    if saga is None or not any(isinstance(effect, ReleaseHold) for effect in outcome):
        return outcome
    kept = {name: saga.data[name] for name in ("group_id", "owner_id")}
    roster.sagas.put(replace(saga, status=Status.REFUSED, data=kept))
    group_id = UUID(saga.data["group_id"])
    return [MemberAccountRefused(group_id=group_id, code=message.body.code, command_type="")]


def deadline_assumes_the_worst(roster: Roster, message: Incoming[SagaDeadline], moment: Moment) -> Outcome:
    """Take it that an account which has not been heard of in time is not there, without asking."""
    saga = roster.sagas.get(message.body.saga_id)
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
    for membership in roster.memberships.values():
        roster.memberships.remove(membership.id)
    return outcome


# --- the others -------------------------------------------------------------------------------------------------------


def number_stays_free(registry: Registry, message: Incoming[ProvisionAccount], moment: Moment) -> Outcome:
    outcome = PROVISIONING.handlers[ProvisionAccount](registry, message, moment)
    for number in registry.fax_numbers.values():
        registry.fax_numbers.put(replace(number, state=NumberState.FREE, subscriber_id=None))
    return outcome


def cancel_leaves_no_trace(registry: Registry, message: Incoming[CancelProvisioning], moment: Moment) -> Outcome:
    """Answer a cancellation, but let the request that comes late be granted."""
    unknown = registry.requests.get(message.body.request_id) is None
    outcome = PROVISIONING.handlers[CancelProvisioning](registry, message, moment)
    if unknown:
        registry.requests.remove(message.body.request_id)
    return outcome


def no_receipt(tray: Any, message: Incoming[MemberAccountCreated], moment: Moment) -> Outcome:
    outcome = NOTIFICATIONS.handlers[MemberAccountCreated](tray, message, moment)
    for mail in tray.mails.values():
        if mail.template == "receipt":
            tray.mails.remove(mail.id)
    return outcome


# --- the plumbing -----------------------------------------------------------------------------------------------------


class _ForgetfulTransaction(MemoryTransaction):
    async def claim_inbox(self, ids: Sequence[UUID], now: datetime) -> Collection[UUID]:
        return set(ids)


class ForgetfulDatabase(FaultyDatabase):
    """An inbox that remembers nothing."""

    @asynccontextmanager
    async def begin(self) -> Any:
        async with super().begin() as tx:
            yield _ForgetfulTransaction(tx.contents)


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
    """Parks what fails, and lets what follows on its key overtake it."""

    @asynccontextmanager
    async def begin(self) -> Any:
        async with super().begin() as tx:
            yield tx
            tx.contents.blocked.clear()


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "a release that comes first burns nothing": _with(LEDGER, {ReleaseHold: release_burns_nothing}),
    "a capture is done as often as it is asked for": _with(LEDGER, {CaptureHold: capture_again_and_again}),
    "held units can be spent": _with(LEDGER, {ReserveUnits: holds_are_not_kept_back}),
    "a transfer is written by half": _with(LEDGER, {PostTransfers: half_a_transfer}),
    "a refused saga does not compensate": _with(GROUPS, {AccountRefused: no_compensation}),
    "a deadline assumes the outcome of the pivot": _with(GROUPS, {SagaDeadline: deadline_assumes_the_worst}),
    "the capture is never asked for": _with(GROUPS, {AccountProvisioned: capture_is_forgotten}),
    "the membership is not written": _with(GROUPS, {HoldCaptured: no_membership}),
    "a fax number stays free": _with(PROVISIONING, {ProvisionAccount: number_stays_free}),
    "a cancellation is not remembered": _with(PROVISIONING, {CancelProvisioning: cancel_leaves_no_trace}),
    "the owner gets no receipt": _with(NOTIFICATIONS, {MemberAccountCreated: no_receipt}),
    "the inbox forgets": Mutation(database=ForgetfulDatabase),
    "the outbox is not part of the transaction": Mutation(database=LossyDatabase),
    "a parked message does not block its key": Mutation(database=BlindDatabase),
}
"""What is wrong, by what it says of itself."""
