"""Standing orders: what sets one off, what it asks of the ledger, and that it does so once, within its bound."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from popfax_contracts.groups import (
    DetachMembers,
    LeaveGroup,
    MemberRef,
    SetStandingOrder,
    StandingOrderPaused,
    StandingOrderRefused,
    StandingOrderSet,
    StandingOrderStopped,
    StopStandingOrder,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.ledger import BalanceChanged, Leg, PostedLeg, PostTransfers, TransfersPosted, TransfersRefused
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import AccountClosed
from services.chassis.messages import ClearTimer, Incoming, decode
from services.groups.consumers import GROUPS
from services.groups.domain import (
    ORDERS_WAIT,
    Group,
    HistoryEntry,
    Kind,
    OrderKind,
    OrderState,
    StandingOrder,
    Subscriber,
    Transfer,
    TransferState,
    beginning_of,
    history_of_pause,
    membership_of,
    month_after,
    month_of,
    order_look,
    order_of,
    order_transfer,
    unknown_subscriber,
)
from services.groups.store import order_line_of
from services.groups.timers import ORDER_LOOKS
from tests.unit.given import NOW, Scene, given, id_of, incoming
from tests.unit.test_groups_transfers import ADA, BOB, GROUP, JOE, member

ORDER = order_of(membership_of(GROUP, BOB))
OPEN_GROUP = Group(GROUP, ADA, "", False, None)
KEEP: dict[str, Any] = {"kind": "keep_at", "threshold_units": 10, "target_units": 30, "monthly_bound_units": 100}
MONTHLY: dict[str, Any] = {"kind": "monthly", "amount_units": 20}
JANUARY, FEBRUARY, MARCH = date(2031, 1, 1), date(2031, 2, 1), date(2031, 3, 1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SET_AT = NOW + timedelta(milliseconds=1)
KEPT = StandingOrder(
    id=ORDER,
    group_id=GROUP,
    owner_id=ADA,
    member_id=BOB,
    state=OrderState.ACTIVE,
    version=1,
    kind=OrderKind.KEEP_AT,
    threshold_units=10,
    target_units=30,
    monthly_bound_units=100,
    amount_units=None,
    set_at=SET_AT,
    ended_at=None,
    code=None,
    month=JANUARY,
    month_units=0,
    next_month=FEBRUARY,
    transfer_id=None,
    due_at=SET_AT,
    looks=1,
    balance_version=0,
)
GIVEN = replace(
    KEPT,
    kind=OrderKind.MONTHLY,
    threshold_units=None,
    target_units=None,
    monthly_bound_units=None,
    amount_units=20,
    due_at=datetime(2031, 1, 31, 23, tzinfo=UTC),
)


def setting(terms: dict[str, Any], id_: str = "set", actor: UUID = ADA) -> Incoming[Message]:
    return incoming(SetStandingOrder(group_id=GROUP, member_id=BOB, **terms), actor, id_of(id_))


def stopping(id_: str = "stop", actor: UUID = ADA) -> Incoming[Message]:
    return incoming(StopStandingOrder(group_id=GROUP, member_id=BOB), actor, id_of(id_))


def with_units(units: int, version: int = 1) -> Subscriber:
    return replace(unknown_subscriber(BOB), available_units=units, balance_version=version)


def balance(units: int, version: int) -> BalanceChanged:
    return BalanceChanged(account_id=BOB, version=version, balance_units=units, available_units=units)


class Orders:
    """A group with a member, whose standing order is looked at whenever it is due, and the ledger's answers."""

    def __init__(self, *rows: Any, at: datetime = NOW) -> None:
        self.scene: Scene = given(GROUPS, OPEN_GROUP, *member(BOB), *rows)
        self.now = at

    @property
    def order(self) -> StandingOrder:
        found: StandingOrder = self.scene.only(StandingOrder)
        return found

    @property
    def transfer(self) -> Transfer:
        return next(row for row in self.scene.rows() if isinstance(row, Transfer) and row.id == self.order.transfer_id)

    def change(self, **changes: Any) -> None:
        """Make the order what other turns of events would have made of it."""
        self.scene.database.contents.tables["standing_orders"][ORDER] = replace(self.order, **changes)

    def line(self, outcome: str) -> HistoryEntry:
        lines = [row for row in self.scene.rows() if isinstance(row, HistoryEntry) and row.kind is Kind.ORDER]
        return next(line for line in lines if line.outcome == outcome)

    def when(self, *messages: Message | Incoming[Message], actor: UUID | None = None) -> list[Any]:
        self.now += timedelta(milliseconds=1)
        return list(self.scene.when(*messages, actor=actor, at=self.now).effects)

    def look(self) -> list[Any]:
        """Look at the order if it is due, and return what is asked of the ledger."""
        record = ORDER_LOOKS.record(self.order)
        if record is None or record.due_at is None or record.due_at > self.now:
            return []
        message = due(self)
        assert message.actor == ADA, "the ledger takes units from whoever asks alone"
        return [each for each in self.when(message) if isinstance(each, PostTransfers)]

    def asked(self) -> Leg:
        (posting,) = self.look()
        assert (posting.source_id, posting.transfer_id) == (ADA, self.order.transfer_id)
        (leg,) = posting.legs
        return leg  # type: ignore[no-any-return]

    def answer(self, units: int, version: int) -> TransfersPosted:
        leg = PostedLeg(account_id=BOB, amount_units=units, version=version)
        return TransfersPosted(transfer_id=self.transfer.id, source_id=ADA, legs=(leg,), total_units=units)

    def refusal(self, code: str = "units_short") -> TransfersRefused:
        return TransfersRefused(transfer_id=self.transfer.id, source_id=ADA, code=code, command_type=PostTransfers.TYPE)


def due(orders: Orders) -> Incoming[Message]:
    """The message by which the order is looked at next."""
    record = ORDER_LOOKS.record(orders.order)
    assert record is not None
    message = decode(record, {model.TYPE.encode(): model for model in GROUPS.handlers}, ())
    assert isinstance(message, Incoming)
    return message


def test_ids_that_are_stored_are_the_same_tomorrow() -> None:
    """Literally: they are how a repetition is known, by the next version as well."""
    orders = Orders()
    orders.when(setting(KEEP))
    made = history_of_pause(ORDER), order_transfer(orders.order, None), order_transfer(orders.order, 7)
    assert list(map(str, made)) == [
        "e5d4f7ad-9ac4-5321-8b81-eb21931ab755",
        "36232fd9-03e6-8006-971b-63c25526a5d5",
        "e75dd381-ff45-873a-b429-962eb6053760",
    ]


# --- set, changed, stopped --------------------------------------------------------------------------------------------


def line(id_: UUID, at: datetime, actor: UUID | None, outcome: str, code: str) -> HistoryEntry:
    return HistoryEntry(id_, GROUP, Kind.ORDER, at, actor, BOB, ORDER, None, outcome, code, at)


@pytest.mark.parametrize(("terms", "order"), [(KEEP, KEPT), (MONTHLY, GIVEN)])
def test_sets_an_order_and_tells_the_owner_alone(terms: dict[str, Any], order: StandingOrder) -> None:
    orders, command = Orders(), setting(terms)
    told = orders.when(command)
    assert told == [StandingOrderSet(group_id=GROUP, owner_id=ADA, member_id=BOB, order_id=ORDER, version=1, **terms)]
    assert orders.order == order
    assert orders.line("set") == line(order_line_of(command), SET_AT, ADA, "set", terms["kind"])


@pytest.mark.parametrize(
    ("rows", "actor", "code"),
    [
        ([], JOE, "not_owner"),
        ([replace(OPEN_GROUP, closed_at=NOW)], ADA, "group_closed"),
        (member(BOB, active=False), ADA, "not_member"),
    ],
)
@pytest.mark.parametrize("terms", [KEEP, MONTHLY])
def test_refuses_to_set(rows: list[Any], actor: UUID, code: str, terms: dict[str, Any]) -> None:
    orders = Orders(*rows)
    command = setting(terms, actor=actor)
    (told,) = orders.when(command)
    assert told == StandingOrderRefused(group_id=GROUP, member_id=BOB, code=code, command_type=command.body.TYPE)
    assert not any(isinstance(row, StandingOrder) for row in orders.scene.rows())


def test_leaves_a_later_membership_alone() -> None:
    (told,) = Orders().when(setting({**KEEP, "epoch": 2}))
    assert told.code == "not_member"


@pytest.mark.parametrize(
    "terms",
    [
        {**KEEP, "threshold_units": 31},
        {**KEEP, "amount_units": 1},
        {**KEEP, "monthly_bound_units": None},
        {**MONTHLY, "target_units": 1},
        {"kind": "monthly"},
        {"kind": "weekly", "amount_units": 1},
    ],
)
def test_terms_that_make_no_order_are_malformed(terms: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SetStandingOrder(group_id=GROUP, member_id=BOB, **terms)


def test_stops_an_order_once() -> None:
    orders, command = Orders(), stopping()
    orders.when(setting(KEEP))
    told = orders.when(command)
    ids = {"group_id": GROUP, "owner_id": ADA, "member_id": BOB, "order_id": ORDER}
    assert told == [StandingOrderStopped(**ids, reason="stopped")]
    assert orders.order == replace(KEPT, state=OrderState.STOPPED, version=2, ended_at=orders.now, due_at=None)
    assert orders.line("stopped") == line(order_line_of(command), orders.now, ADA, "stopped", "keep_at")
    (refused,) = orders.when(stopping("again"))
    assert refused.code == "no_order"


@pytest.mark.parametrize(("actor", "code"), [(JOE, "not_owner"), (ADA, "no_order")])
def test_refuses_to_stop(actor: UUID, code: str) -> None:
    (told,) = Orders().when(stopping(actor=actor))
    assert (type(told), told.code) == (StandingOrderRefused, code)


def test_refuses_to_stop_in_a_closed_group() -> None:
    (told,) = Orders(replace(OPEN_GROUP, closed_at=NOW)).when(stopping())
    assert told.code == "group_closed"


def test_commands_redelivered_long_afterwards_change_nothing() -> None:
    orders = Orders()
    orders.when(setting(KEEP))
    orders.when(stopping())
    orders.when(setting(MONTHLY, "other"))
    before = orders.order
    assert orders.when(setting(KEEP), stopping()) == []
    assert orders.order == before


# --- kept at N units --------------------------------------------------------------------------------------------------


def test_tops_up_as_soon_as_it_is_set() -> None:
    orders = Orders(with_units(3))
    orders.when(setting(KEEP))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)
    asked_at = orders.now
    assert orders.transfer == Transfer(
        id=order_transfer(KEPT, 1),
        group_id=GROUP,
        owner_id=ADA,
        mode="top_up_to",
        amount_units=30,
        state=TransferState.PENDING,
        code=None,
        total_units=None,
        asked_at=asked_at,
        ended_at=None,
        order_id=ORDER,
        order_version=1,
        month=JANUARY,
        bound_units=100,
    )
    assert orders.order == replace(KEPT, transfer_id=orders.transfer.id, due_at=asked_at + ORDERS_WAIT, looks=2)


def test_tops_up_somebody_whose_balance_nobody_has_told_yet() -> None:
    orders = Orders()
    orders.when(setting(KEEP))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_is_looked_at_at_the_very_moment() -> None:
    orders = Orders(with_units(3))
    orders.when(setting(KEEP))
    asked = orders.scene.when(due(orders), at=SET_AT).effects
    assert [type(each) for each in asked if isinstance(each, PostTransfers)] == [PostTransfers]


def test_waits_for_a_balance_below_the_threshold() -> None:
    orders = Orders(with_units(10))
    orders.when(setting(KEEP))
    assert orders.look() == []
    orders.when(balance(10, 2))
    assert orders.order.due_at is None
    orders.when(balance(9, 3))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_tells_both_sides_and_counts_what_was_moved() -> None:
    orders = Orders(with_units(3))
    orders.when(setting(KEEP))
    assert due(orders).correlation_id == str(order_look(orders.order))
    orders.asked()
    id_ = orders.transfer.id
    receipt, received, _ = orders.when(orders.answer(27, 2))
    assert isinstance(receipt, UnitsTransferred)
    assert (receipt.order_id, receipt.total_units) == (ORDER, 27)
    assert received == UnitsReceived(group_id=GROUP, owner_id=ADA, member_id=BOB, transfer_id=id_, amount_units=27), (
        "which looks like any other"
    )
    assert (orders.order.month_units, orders.order.transfer_id) == (27, None)


def test_the_line_of_a_transfer_says_that_nobody_asked_for_it_by_hand() -> None:
    orders = Orders(with_units(3))
    orders.when(setting(KEEP))
    orders.asked()
    (line,) = [row for row in orders.scene.rows() if isinstance(row, HistoryEntry) and row.kind is Kind.TRANSFER]
    assert (line.actor_id, line.member_id, line.reference_id) == (None, BOB, orders.transfer.id)


def test_has_one_open_transfer_at_most() -> None:
    orders = Orders(with_units(3))
    orders.when(setting(KEEP))
    orders.asked()
    before = orders.order
    orders.when(balance(2, 2))
    assert orders.order == before
    orders.when(setting(KEEP, "again"))
    again = replace(before, version=2, set_at=orders.now, due_at=orders.now, looks=before.looks + 1)
    assert orders.order == again, "the answer is looked for at once"
    assert orders.look() == []


@pytest.mark.parametrize("first", ["balance", "answer"])
def test_does_not_top_up_again_before_the_balance_shows_the_last_time(first: str) -> None:
    orders = Orders(with_units(3, 5))
    orders.when(setting(KEEP))
    orders.asked()
    told = {"answer": orders.answer(27, 7), "balance": balance(30, 7)}
    orders.when(balance(4, 6))  # late: it was so before the ledger moved anything
    orders.when(told.pop(first))
    if first == "answer":
        assert orders.look() == []
    orders.when(*told.values())
    assert orders.look() == []
    orders.when(balance(9, 8))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_tops_up_again_if_the_member_spent_meanwhile() -> None:
    orders = Orders(with_units(3, 5))
    orders.when(setting(KEEP))
    orders.asked()
    orders.when(balance(30, 6), balance(1, 7))
    orders.when(orders.answer(27, 6))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_asks_for_an_amount_once_the_bound_leaves_less_than_the_target() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting({**KEEP, "monthly_bound_units": 40}))
    orders.asked()
    orders.when(orders.answer(27, 2), balance(4, 3))
    assert orders.asked() == Leg(account_id=BOB, amount_units=13), "26 would be too much for the month"
    assert orders.transfer.id == order_transfer(orders.order, 3)
    orders.when(orders.answer(13, 4), balance(0, 5))
    assert orders.look() == []
    assert orders.order.month_units == 40


def test_asks_for_what_is_missing_where_the_bound_leaves_more() -> None:
    orders = Orders(with_units(9))
    orders.when(setting({**KEEP, "monthly_bound_units": 28}))
    assert orders.asked() == Leg(account_id=BOB, amount_units=21)


@pytest.mark.parametrize("bound", [100, 28])
def test_what_keeps_somebody_at_their_units_settles_no_month(bound: int) -> None:
    orders = Orders(with_units(9))
    orders.when(setting({**KEEP, "monthly_bound_units": bound}))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    orders.when(orders.answer(21, 2))
    assert orders.order.next_month == FEBRUARY


@pytest.mark.parametrize("is_missed", [False, True])
def test_units_of_an_earlier_month_count_to_no_later_one(is_missed: bool) -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    orders.change(month=FEBRUARY, month_units=5)
    if is_missed:
        as_if_before(orders, orders.answer(27, 2))
        look_later(orders)
    else:
        orders.when(orders.answer(27, 2))
    assert (orders.order.month, orders.order.month_units, orders.order.balance_version) == (FEBRUARY, 5, 2)


def test_goes_on_in_the_next_month_once_the_bound_was_reached() -> None:
    orders = Orders(with_units(0, 1))
    orders.when(setting({**KEEP, "monthly_bound_units": 30}))
    orders.asked()
    orders.when(orders.answer(30, 2), balance(0, 3))
    assert orders.look() == []
    orders.when(balance(0, 4))
    orders.now = beginning_of(FEBRUARY) - HOUR
    assert orders.look() == []
    orders.now = beginning_of(FEBRUARY)
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_setting_it_again_does_not_bring_the_bound_back() -> None:
    orders = Orders(with_units(0, 1))
    orders.when(setting({**KEEP, "monthly_bound_units": 30}))
    orders.asked()
    orders.when(orders.answer(30, 2), balance(0, 3))
    orders.when(stopping())
    orders.when(setting({**KEEP, "monthly_bound_units": 30}, "again"))
    assert orders.look() == []
    orders.when(setting({**KEEP, "monthly_bound_units": 35}, "more"))
    assert orders.asked() == Leg(account_id=BOB, amount_units=5)


def test_a_clock_that_goes_back_does_not_bring_the_bound_back() -> None:
    orders = Orders(with_units(0, 1), at=beginning_of(FEBRUARY))
    orders.when(setting({**KEEP, "monthly_bound_units": 30}))
    orders.asked()
    orders.when(orders.answer(30, 2))
    orders.now = beginning_of(FEBRUARY) - DAY
    orders.when(balance(0, 3))
    assert orders.look() == []
    assert (orders.order.month, orders.order.month_units) == (FEBRUARY, 30)


# --- monthly ----------------------------------------------------------------------------------------------------------


def test_gives_units_on_the_first_of_each_month_in_paris() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    for month in (FEBRUARY, MARCH):
        orders.now = beginning_of(month) - timedelta(seconds=1)
        assert orders.look() == []
        orders.now = beginning_of(month)
        assert orders.asked() == Leg(account_id=BOB, amount_units=20)
        orders.when(orders.answer(20, 1))
        assert orders.look() == []
    assert beginning_of(FEBRUARY) == datetime(2031, 1, 31, 23, tzinfo=UTC)
    assert beginning_of(date(2031, 7, 1)) == datetime(2031, 6, 30, 22, tzinfo=UTC)


def test_a_look_in_a_month_that_is_settled_gives_nothing() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.change(due_at=NOW)
    assert orders.look() == []
    assert orders.order == replace(GIVEN, looks=2)


def test_makes_up_for_one_month_alone_after_a_jump_of_several() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(date(2031, 6, 1)) + 10 * DAY
    orders.asked()
    orders.when(orders.answer(20, 1))
    assert orders.look() == []
    assert orders.order.next_month == date(2031, 7, 1)


def test_a_clock_that_goes_back_pays_no_month_twice() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(MARCH)
    orders.asked()
    orders.when(orders.answer(20, 1))
    orders.now = beginning_of(FEBRUARY)
    assert orders.look() == []
    orders.when(stopping(), setting(MONTHLY, "again"))
    orders.now = beginning_of(MARCH) + DAY
    assert orders.look() == []


def test_repeated_and_late_answers_are_harmless() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    posted, refused = orders.answer(20, 1), orders.refusal()
    orders.when(posted)
    before = orders.order
    assert orders.when(posted, refused) == []
    assert orders.order == before


def test_a_look_that_comes_twice_asks_once() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    message = due(orders)
    asked = [each for each in orders.when(message, message) if isinstance(each, PostTransfers)]
    assert len(asked) == 1
    assert orders.when(message) == []


def test_a_first_that_passes_while_a_transfer_is_open_is_not_lost() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    orders.when(setting(MONTHLY, "other"))
    orders.now = beginning_of(FEBRUARY)
    assert orders.look() == []
    orders.when(orders.answer(27, 2))
    assert orders.asked() == Leg(account_id=BOB, amount_units=20)


def test_change_while_the_refused_transfer_was_open_does_not_skip_the_month() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    orders.when(setting({**MONTHLY, "amount_units": 5}, "less"))
    assert orders.look() == []
    assert [type(each).__name__ for each in orders.when(orders.refusal())] == ["ClearTimer"]
    assert orders.order.state is OrderState.ACTIVE
    assert orders.asked() == Leg(account_id=BOB, amount_units=5)


def test_change_while_the_transfer_was_open_that_was_posted_does_not_pay_twice() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    orders.when(setting({**MONTHLY, "amount_units": 5}, "less"))
    orders.when(orders.answer(20, 1))
    assert orders.look() == []
    assert orders.order.next_month == MARCH


def test_expired_members_still_receive() -> None:
    orders = Orders(replace(with_units(0), expires_at=NOW - DAY))
    orders.when(setting(KEEP))
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


# --- paused -----------------------------------------------------------------------------------------------------------


def test_is_paused_once_when_the_owner_is_short() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    asked = orders.order
    told, cleared = orders.when(orders.refusal())
    ids = {"group_id": GROUP, "owner_id": ADA, "member_id": BOB, "order_id": ORDER}
    assert told == StandingOrderPaused(**ids, reason="units_short", paused_at=orders.now)
    assert asked.transfer_id is not None
    assert cleared == ClearTimer(asked.transfer_id)
    assert orders.line("paused") == line(history_of_pause(asked.transfer_id), orders.now, None, "paused", "units_short")
    paused = replace(KEPT, state=OrderState.PAUSED, version=2, code="units_short", due_at=None, looks=2)
    assert orders.order == paused
    assert orders.when(balance(0, 2)) == []
    assert orders.look() == []


def test_goes_on_when_it_is_set_again() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    first = orders.transfer.id
    orders.when(orders.refusal())
    orders.when(setting(KEEP, "again"))
    assert orders.order == replace(KEPT, version=3, set_at=orders.now, due_at=orders.now, looks=3)
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)
    assert orders.transfer.id != first


def test_no_reason_outlives_a_stop_and_no_stop_outlives_a_setting() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    orders.when(orders.refusal())
    orders.when(stopping())
    stopped = replace(KEPT, state=OrderState.STOPPED, version=3, ended_at=orders.now, due_at=None, looks=2)
    assert orders.order == stopped
    orders.when(setting(KEEP, "again"))
    assert orders.order == replace(KEPT, version=4, set_at=orders.now, due_at=orders.now, looks=3)


def test_what_was_refused_after_it_was_set_again_is_asked_for_again() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    refusal = orders.refusal()
    orders.when(setting(KEEP, "again"))
    assert orders.when(refusal) == [ClearTimer(refusal.transfer_id)]
    assert orders.asked() == Leg(account_id=BOB, top_up_to_units=30)


def test_the_month_in_which_it_was_paused_is_made_up_for() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    orders.when(orders.refusal())
    orders.now += 9 * DAY
    orders.when(setting(MONTHLY, "again"))
    assert orders.asked() == Leg(account_id=BOB, amount_units=20)
    orders.when(orders.answer(20, 1))
    assert orders.order.next_month == MARCH


# --- the end ----------------------------------------------------------------------------------------------------------


def test_starts_nothing_after_a_stop() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    look = due(orders)
    orders.when(stopping())
    assert orders.when(look) == []
    assert orders.when(balance(0, 2)) == []
    assert orders.order.due_at is None


@pytest.mark.parametrize("posted", [True, False])
def test_what_was_asked_before_a_stop_completes(posted: bool) -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    answer = orders.answer(27, 2) if posted else orders.refusal()
    orders.when(stopping())
    told = [type(each).__name__ for each in orders.when(answer)]
    assert told == (["UnitsTransferred", "UnitsReceived", "ClearTimer"] if posted else ["ClearTimer"])
    assert (orders.order.state, orders.order.transfer_id) == (OrderState.STOPPED, None)
    assert orders.order.month_units == (27 if posted else 0)


@pytest.mark.parametrize(
    ("message", "actor", "reason"),
    [
        (DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),)), ADA, "detached"),
        (LeaveGroup(group_id=GROUP), BOB, "left"),
        (AccountClosed(account_id=BOB), BOB, "account_closed"),
        (AccountClosed(account_id=ADA), ADA, "group_closed"),
    ],
)
@pytest.mark.parametrize("is_set_before", [True, False])
def test_ends_with_the_membership(message: Message, actor: UUID, reason: str, is_set_before: bool) -> None:
    """The second time both come in one batch."""
    orders = Orders(with_units(3, 1))
    ending = incoming(message, actor)
    if is_set_before:
        orders.when(setting(KEEP))
        told = orders.when(ending)
    else:
        told = orders.when(setting(KEEP), ending)
    assert [each.reason for each in told if isinstance(each, StandingOrderStopped)] == [reason]
    assert (orders.order.state, orders.order.due_at) == (OrderState.STOPPED, None)
    assert orders.look() == []


def test_two_owners_may_keep_the_same_member() -> None:
    other = group_of(JOE)
    orders = Orders(with_units(30, 1), Group(other, JOE, "", False, None), *member(BOB, JOE))
    theirs = SetStandingOrder(group_id=other, member_id=BOB, **KEEP)
    orders.when(setting(KEEP), incoming(theirs, JOE, id_of("theirs")))
    orders.when(balance(5, 2))
    due = [row for row in orders.scene.rows() if isinstance(row, StandingOrder) and row.due_at is not None]
    assert {row.owner_id for row in due} == {ADA, JOE}


def test_months() -> None:
    assert month_of(datetime(2030, 12, 31, 23, tzinfo=UTC)) == JANUARY
    assert month_of(datetime(2030, 12, 31, 22, tzinfo=UTC)) == date(2030, 12, 1)
    assert month_after(date(2031, 12, 1)) == date(2032, 1, 1)


# --- beside a worker of the version before, which knows no orders -----------------------------------------------------


def as_if_before(orders: Orders, *messages: Message, actor: UUID | None = None) -> None:
    """Have a worker handle messages that neither sees nor changes orders."""
    contents = orders.scene.database.contents
    kept, asked = dict(contents.tables["standing_orders"]), dict(contents.tables.get("transfers", {}))
    contents.tables["standing_orders"] = {}
    contents.tables["transfers"] = {id_: replace(row, order_id=None) for id_, row in asked.items()}
    orders.when(*messages, actor=actor)
    contents = orders.scene.database.contents
    contents.tables["standing_orders"] = kept
    contents.tables["transfers"] = {
        id_: replace(row, order_id=asked[id_].order_id) for id_, row in contents.tables["transfers"].items()
    }


def look_later(orders: Orders) -> list[Any]:
    """Look when it is time to look for a missed answer; return everything that comes of it."""
    orders.now += HOUR
    record = ORDER_LOOKS.record(orders.order)
    assert record is not None
    assert record.due_at is not None
    assert record.due_at <= orders.now
    return orders.when(due(orders))


@pytest.mark.parametrize("terms", [KEEP, MONTHLY])
def test_an_order_whose_membership_has_ended_is_stopped_when_it_is_looked_at(terms: dict[str, Any]) -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(terms))
    as_if_before(orders, DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),)), actor=ADA)
    orders.now = beginning_of(FEBRUARY)
    told = look_later(orders)
    ids = {"group_id": GROUP, "owner_id": ADA, "member_id": BOB, "order_id": ORDER}
    assert told == [StandingOrderStopped(**ids, reason="detached")]
    assert (orders.order.state, orders.order.due_at) == (OrderState.STOPPED, None)


@pytest.mark.parametrize("is_refused", [False, True])
def test_an_order_that_missed_its_answer_goes_on_with_what_the_transfer_says(is_refused: bool) -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    as_if_before(orders, orders.refusal() if is_refused else orders.answer(27, 2))
    told = look_later(orders)
    assert orders.order.transfer_id is None
    assert [each.reason for each in told if isinstance(each, StandingOrderPaused)] == ["units_short"] * is_refused
    assert len(told) == is_refused
    assert (orders.order.state, orders.order.month_units) == (
        (OrderState.PAUSED, 0) if is_refused else (OrderState.ACTIVE, 27)
    )
    assert orders.look() == [], "the balance that it was asked for is not news"
    orders.when(balance(4, 2))
    assert len(orders.look()) == (not is_refused)


@pytest.mark.parametrize("units", [0, 27])
def test_an_order_that_was_set_again_and_missed_its_answer_knows_which_balance_it_was_asked_for(units: int) -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    as_if_before(orders, orders.answer(units, 2))
    orders.when(setting(KEEP, "again"))
    look_later(orders)
    assert (orders.order.month_units, orders.order.balance_version) == (units, 2)


def test_a_month_whose_answer_was_missed_is_paid_once() -> None:
    orders = Orders()
    orders.when(setting(MONTHLY))
    orders.now = beginning_of(FEBRUARY)
    orders.asked()
    as_if_before(orders, orders.answer(20, 1))
    look_later(orders)
    assert (orders.look(), orders.order.next_month) == ([], MARCH)


def test_a_stopped_order_that_missed_its_answer_counts_what_was_moved() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    as_if_before(orders, orders.answer(27, 2))
    orders.when(stopping())
    assert look_later(orders) == []
    assert (orders.order.state, orders.order.transfer_id, orders.order.month_units) == (OrderState.STOPPED, None, 27)


def test_an_order_that_has_no_answer_goes_on_waiting() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    orders.asked()
    waits = orders.order
    assert look_later(orders) == []
    assert orders.order == replace(waits, due_at=orders.now + HOUR, looks=waits.looks + 1)
    orders.when(orders.answer(27, 2))
    assert orders.order.transfer_id is None


def test_a_look_for_another_transfer_than_the_order_waits_for_changes_nothing() -> None:
    orders = Orders(with_units(3, 1))
    orders.when(setting(KEEP))
    stale = due(orders)
    orders.asked()
    orders.now += HOUR
    before = orders.order
    assert orders.when(stale) == []
    assert orders.order == before
