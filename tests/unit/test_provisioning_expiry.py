"""An account's end: told by durable timers, however late they fire."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Message
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExpiring,
    AccountExtended,
    CloseAccount,
    ExtendAccount,
)
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import StoredRecord
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import fire_due
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import AccountState, Subscriber
from services.provisioning.handlers import _content
from services.provisioning.tables import PLANS, SUBSCRIBERS
from services.provisioning.timers import EXPIRY, ExpiryDue
from tests.simulation.world import VirtualClock, drive
from tests.unit.given import NOW, given, id_of
from tests.unit.test_provisioning import ADA, SEND, SIGNED_UP, provision, register

DUE = ExpiryDue(account_id=ADA)
DAY = timedelta(1)


def lasting(days: float, **changes: Any) -> Subscriber:
    """An account that has so many days left, and had them all when it began."""
    return replace(SIGNED_UP, plan="send_only", expires_at=NOW + days * DAY, **changes)


def expiring(account: Subscriber, days: int, late: bool = False) -> AccountExpiring:
    return AccountExpiring(
        account_id=account.id, days=days, expires_at=account.expires_at, late=late, plan=account.plan
    )


def expired(account: Subscriber) -> AccountExpired:
    return AccountExpired(account_id=account.id, expires_at=account.expires_at, plan=account.plan)


# --- one firing ---


@pytest.mark.parametrize(
    ("left", "reminded", "told", "next_days"),
    [
        (30, None, [(30, False)], 7),
        (29.5, None, [(30, False)], 7),
        (7, 30, [(7, False)], 1),
        (1, 7, [(1, False)], 0),
        (5, None, [(30, True), (7, False)], 1),
        (0.5, None, [(30, True), (7, True), (1, False)], 0),
        (0.5, 30, [(7, True), (1, False)], 0),
    ],
)
def test_tells_every_milestone_that_has_come_and_waits_for_the_next(
    left: float, reminded: int | None, told: list[tuple[int, bool]], next_days: int
) -> None:
    account = lasting(left, reminded_days=reminded)
    scene = given(PROVISIONING, account).when(DUE)
    assert account.expires_at is not None
    scene.then(*(expiring(account, days, late) for days, late in told))
    reminded_of = replace(account, reminded_days=told[-1][0])
    scene.leaves(reminded_of)
    assert reminded_of.next_due() == account.expires_at - next_days * DAY


@pytest.mark.parametrize(
    ("ago", "reminded", "told"), [(0, 1, []), (3, 1, []), (3, 7, [1]), (3, 30, [7, 1]), (10, None, [30, 7, 1])]
)
def test_tells_an_end_that_has_come_after_all_that_was_missed(
    ago: float, reminded: int | None, told: list[int]
) -> None:
    account = lasting(-ago, reminded_days=reminded)
    scene = given(PROVISIONING, account).when(DUE)
    scene.then(*(expiring(account, days, late=True) for days in told), expired(account))
    scene.leaves(replace(account, state=AccountState.EXPIRED, reminded_days=1))


def test_tells_nothing_twice() -> None:
    account = lasting(30)
    scene = given(PROVISIONING, account).when(DUE, DUE)
    scene.then(expiring(account, 30))


def test_does_nothing_when_the_account_was_extended_meanwhile() -> None:
    account = lasting(300)
    given(PROVISIONING, account).when(DUE).then().leaves(account)


@pytest.mark.parametrize(
    "account",
    [lasting(-1, state=AccountState.EXPIRED), lasting(-1).closed(NOW), SIGNED_UP],
    ids=["expired", "closed", "without an end"],
)
def test_tells_nothing_of_an_account_that_is(account: Subscriber) -> None:
    given(PROVISIONING, account).when(DUE).then().leaves(account)


def test_tells_nothing_of_an_account_that_nobody_knows() -> None:
    given(PROVISIONING).when(DUE).then().leaves()


@pytest.mark.parametrize(("days", "first"), [(365, 30), (30, 7), (29, 7), (5, 1), (1, 0), (0.5, 0), (-3, 0)])
def test_the_first_milestone_is_one_that_lies_ahead_when_the_account_begins(days: float, first: int) -> None:
    account = SIGNED_UP.lasting(NOW + days * DAY, NOW)
    assert account.next_due() == NOW + (days - first) * DAY


# --- a life ---


class Life:
    """Provisioning on a virtual clock, with its own timers."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.clock = VirtualClock(Random(0))
        self.clock.now = NOW
        self.shell = Shell(PROVISIONING, self.database, self.clock)
        self.database.contents.tables[PLANS.table.name] = {SEND.plan: SEND}
        self._sent = 0

    def send(self, body: Message, actor: UUID | None = None) -> list[Message]:
        """Let the platform ask for something; return the answers."""
        self._sent += 1
        headers: list[tuple[str, bytes | None]] = [
            ("ce_id", str(id_of(f"message {self._sent}")).encode()),
            ("ce_type", body.TYPE.encode()),
        ]
        if actor is not None:
            headers.append(("ce_actor", str(actor).encode()))
        record = StoredRecord(ADA, None, body.TOPICS[0].name, 0, 0, body.key().encode(), body.to_json(), headers)
        drive(self.shell.process([record], FromKafka()))
        return self._told()

    def wait_until(self, moment: datetime) -> list[Message]:
        """Let the clock jump, and the timers fire; return what was told."""
        self.clock.now = moment
        while drive(fire_due(self.shell)):
            pass
        return self._told()

    def account(self) -> Subscriber:
        (account,) = self.database.contents.tables[SUBSCRIBERS.table.name].values()
        assert isinstance(account, Subscriber)
        return account

    def due(self) -> datetime | None:
        assert not self.database.contents.timers
        return drive(self.database.next_alarm(PROVISIONING.alarms))

    def _told(self) -> list[Message]:
        outbox, self.database.contents.outbox = self.database.contents.outbox, []
        return [MESSAGES[out.type].from_record(out.key.encode(), out.value) for out in outbox]


def begun(days: float) -> Life:
    life = Life()
    life.send(register(plan="send_only", expires_at=NOW + days * DAY))
    return life


def days_told(told: Sequence[Message]) -> list[tuple[int, bool] | str]:
    return [(m.days, m.late) if isinstance(m, AccountExpiring) else type(m).__name__ for m in told]


def test_tells_each_milestone_on_its_day_and_then_the_end() -> None:
    life = begun(100)
    told = {day: days_told(life.wait_until(NOW + day * DAY)) for day in range(1, 200)}
    assert {day: what for day, what in told.items() if what} == {
        70: [(30, False)],
        93: [(7, False)],
        99: [(1, False)],
        100: ["AccountExpired"],
    }
    assert life.due() is None
    assert life.account().state is AccountState.EXPIRED


def test_a_jump_of_forty_days_loses_no_milestone() -> None:
    life = begun(60)
    told = life.wait_until(NOW + 40 * DAY)
    assert days_told(told) == [(30, False)]
    life = begun(35)
    told = life.wait_until(NOW + 40 * DAY)
    assert days_told(told) == [(30, True), (7, True), (1, True), "AccountExpired"]


def test_an_outage_of_a_week_loses_no_milestone() -> None:
    life = begun(31)
    assert days_told(life.wait_until(NOW + 1 * DAY)) == [(30, False)]
    assert days_told(life.wait_until(NOW + 23 * DAY)) == []
    assert days_told(life.wait_until(NOW + 30 * DAY)) == [(7, True), (1, False)]
    assert days_told(life.wait_until(NOW + 31 * DAY)) == ["AccountExpired"]


def test_an_account_that_has_ended_when_it_is_registered_expires_at_once() -> None:
    life = begun(-3)
    assert days_told(life.wait_until(NOW)) == ["AccountExpired"]


def test_an_account_that_begins_late_is_told_of_what_lies_ahead_alone() -> None:
    life = begun(5)
    assert days_told(life.wait_until(NOW + 6 * DAY)) == [(1, True), "AccountExpired"]


def extend(name: str = "extension") -> ExtendAccount:
    return ExtendAccount(request_id=id_of(name), account_id=ADA, payment_reference=f"invoice/{name}")


def test_extended_before_its_end_it_does_not_expire() -> None:
    life = begun(10)
    extended = life.send(extend())
    end = NOW + 375 * DAY
    assert extended == [AccountExtended(request_id=id_of("extension"), account_id=ADA, expires_at=end)]
    assert life.due() == end - 30 * DAY
    assert life.wait_until(NOW + 300 * DAY) == []
    assert days_told(life.wait_until(end)) == [(30, True), (7, True), (1, True), "AccountExpired"]


def test_extended_after_its_end_it_lasts_from_then_on() -> None:
    life = begun(10)
    assert days_told(life.wait_until(NOW + 20 * DAY)) == [(7, True), (1, True), "AccountExpired"]
    life.send(extend())
    assert life.account().state is AccountState.ACTIVE
    assert life.account().expires_at == life.clock.now + 365 * DAY
    assert days_told(life.wait_until(NOW + 360 * DAY)) == [(30, False)]


def test_extended_after_its_end_but_before_that_is_told_it_is_never_told() -> None:
    life = begun(10)
    life.clock.now = NOW + 20 * DAY
    life.send(extend())
    assert life.account().expires_at == life.clock.now + 365 * DAY
    assert life.wait_until(NOW + 21 * DAY) == []


def test_extended_twice_it_lasts_twice_as_long() -> None:
    life = begun(10)
    life.send(extend("one"))
    life.send(extend("two"))
    assert life.account().expires_at == NOW + (10 + 365 + 366) * DAY  # 2032 is a leap year


def test_closed_it_is_never_told_of() -> None:
    life = begun(10)
    assert AccountClosed(account_id=ADA) in life.send(CloseAccount(account_id=ADA), ADA)
    assert life.due() is None
    assert life.wait_until(NOW + 40 * DAY) == []


# --- accounts from before ---

MIGRATION = importlib.import_module("services.provisioning.migrations.0002_whole_product")


@pytest.mark.parametrize("reminded", [None, 30, 7, 1])
def test_timers_from_before_are_the_same_messages(reminded: int | None) -> None:
    account = lasting(100, reminded_days=reminded)
    due = EXPIRY.record(account)
    assert due is not None
    assert due.key is not None
    assert account.expires_at is not None
    assert MIGRATION.timer_of(ADA, account.expires_at, reminded) == {
        "id": due.row_id,
        "due_at": due.due_at,
        "key": due.key.decode(),
        "value": due.value,
    }
    assert ExpiryDue.TYPE in MIGRATION.SET_TIMER
    assert ("ce_correlationid", str(due.row_id).encode()) in due.headers


@pytest.mark.parametrize("name", ["Ada", 'Zoë "Z" O\\’Neil'])
def test_the_migration_keeps_registrations_as_the_handlers_do(name: str) -> None:
    command = register(first_name=name)
    kept = MIGRATION.registration_of(ADA, command.email, name, command.last_name, command.language.value)
    assert kept == {"id": ADA, "registration": _content(command)}


def test_requests_from_before_are_recognized() -> None:
    assert _content(provision()) == blake2b(provision().to_json(), digest_size=16).digest()
