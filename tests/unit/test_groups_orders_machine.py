"""Standing orders under whatever may come: the machine of groups, with members, orders and a ledger that counts.

What is always true of orders is what the audit checks. That the machine finds what is wrong is shown by services that
are.
"""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from deploy.operator.invariants.orders import check_orders
from popfax_contracts.groups import InviteByEmail, LeaveGroup, SetStandingOrder, StopStandingOrder
from popfax_contracts.ledger import BalanceChanged, PostedLeg, PostTransfers, TransfersPosted, TransfersRefused
from popfax_contracts.message import Message, group_of
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment
from services.groups.domain import HistoryEntry, Membership, StandingOrder, Subscriber, Transfer
from services.groups.handlers import memberships
from services.groups.store import Roster
from services.groups.timers import OrderDue
from tests.simulation import mutations
from tests.simulation.world import Decide, exchanged
from tests.unit.test_groups_machine import EMAILS, OWNERS, SERVICE, SETTINGS, Groups, likely, people, some

pytestmark = pytest.mark.usefixtures("quiet")

KEEP = {"kind": "keep_at", "threshold_units": 5, "target_units": 8}
TERMS: list[dict[str, Any]] = [
    {**KEEP, "monthly_bound_units": 8},
    {**KEEP, "monthly_bound_units": 20},
    {"kind": "monthly", "amount_units": 3},
]


class Orders(Groups):
    """Groups with members from the beginning, and what the ledger has of everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.balances: dict[UUID, tuple[int, int]] = {}
        """Units and version."""
        self.answered: dict[UUID, Message] = {}

    @initialize()
    def some_are_members(self) -> None:
        for owner in OWNERS:
            for email in EMAILS[2:4]:
                self.comes(InviteByEmail(group_id=group_of(owner), email=email), owner)
                self.the_last_who_was_invited_accepts(last=True)

    # --- orders, and what sets them off ---

    @rule(which=some, terms=st.sampled_from(TERMS), last=likely)
    def an_owner_sets_an_order(self, which: int, terms: dict[str, Any], last: bool) -> None:
        if (member := self.member(which)) is not None:
            command = SetStandingOrder(group_id=member.group_id, member_id=member.member_id, **terms)
            self.comes(command, member.owner_id, last=last)

    @rule(which=some, last=likely)
    def an_owner_stops_an_order(self, which: int, last: bool) -> None:
        if orders := sorted(self.rows(StandingOrder), key=lambda row: row.id):
            order = orders[which % len(orders)]
            command = StopStandingOrder(group_id=order.group_id, member_id=order.member_id)
            self.comes(command, order.owner_id, last=last)

    @rule(which=some, terms=st.sampled_from(TERMS), spent=st.integers(4, 9))
    def an_order_gives_what_is_spent_at_once(self, which: int, terms: dict[str, Any], spent: int) -> None:
        self.an_owner_sets_an_order(which, terms, last=True)
        self.timers_fire()
        self.the_others_answer_all_there_is()
        if (member := self.member(which)) is not None:
            self.comes(self.moves(member.member_id, -min(spent, self.balances.get(member.member_id, (0, 0))[0])))
            self.timers_fire()

    @rule(which=some)
    def somebody_with_an_order_leaves(self, which: int) -> None:
        if orders := sorted(self.rows(StandingOrder), key=lambda row: row.id):
            order = orders[which % len(orders)]
            self.comes(LeaveGroup(group_id=order.group_id), order.member_id)

    @rule(who=people, version=st.integers(0, 9), last=likely)
    def a_balance_changes(self, who: UUID, version: int, last: bool) -> None:
        """They spend all but so many units, at most, or buy as many."""
        self.comes(self.moves(who, version - self.balances.get(who, (0, 0))[0]), last=last)

    @rule(days=st.integers(1, 40))
    def weeks_pass_and_timers_fire(self, days: int) -> None:
        self.time_passes(days)
        self.timers_fire()

    # --- the ledger ---

    def moves(self, who: UUID, units: int) -> BalanceChanged:
        known, version = self.balances.get(who, (0, 0))
        self.balances[who] = known + units, version + 1
        available = known + units
        return BalanceChanged(account_id=who, version=version + 1, balance_units=available, available_units=available)

    def answers(self, command: Message, well: bool) -> list[Message]:
        """The same id has the same answer, however often it is asked."""
        if not isinstance(command, PostTransfers):
            return super().answers(command, well)
        if (answer := self.answered.get(command.transfer_id)) is not None:
            return [answer]
        ids = {"transfer_id": command.transfer_id, "source_id": command.source_id}
        if not well:
            answer = TransfersRefused(**ids, code="units_short", command_type=command.TYPE)
            self.answered[command.transfer_id] = answer
            return [answer]
        shown, legs = [], []
        for leg in command.legs:
            known = self.balances.get(leg.account_id, (0, 0))[0]
            units = leg.amount_units if leg.amount_units is not None else max(0, (leg.top_up_to_units or 0) - known)
            shown.append(self.moves(leg.account_id, units))
            legs.append(PostedLeg(account_id=leg.account_id, amount_units=units, version=shown[-1].version))
        posted = TransfersPosted(**ids, legs=tuple(legs), total_units=sum(leg.amount_units for leg in legs))
        self.answered[command.transfer_id] = posted
        return [posted, *shown]

    # --- what is always true ---

    @invariant()
    def the_audit_finds_nothing_wrong_with_orders(self) -> None:
        rows: Any = SimpleNamespace(
            orders=self.rows(StandingOrder),
            memberships=self.rows(Membership),
            transfers=self.rows(Transfer),
            history=self.rows(HistoryEntry),
            subscribers=self.rows(Subscriber),
        )
        assert list(check_orders(rows)) == []

    @invariant()
    def an_order_never_asks_for_two_things_under_one_id(self) -> None:
        asked: dict[UUID, PostTransfers] = {}
        for body in self.those(PostTransfers):
            assert asked.setdefault(body.transfer_id, body) == body


FEWER = settings(SETTINGS, max_examples=50)


def test_whatever_comes_these_things_are_always_true_of_orders() -> None:
    run_state_machine_as_test(Orders, settings=FEWER)


def _outlives_the_membership(roster: Roster, message: Incoming[LeaveGroup], moment: Moment) -> Outcome:
    before = list(roster.orders.loaded())
    outcome = memberships.leave_group(roster, message, moment)
    for order in before:
        roster.orders.put(order)
    return outcome


WRONG: dict[str, tuple[type[Message], Decide]] = {
    "outlives its membership": (LeaveGroup, _outlives_the_membership),
    "asks beyond its bound": (OrderDue, mutations.asks_beyond_the_bound),
}


@pytest.mark.parametrize("name", WRONG)
def test_finds_an_order_that(name: str) -> None:
    model, decide = WRONG[name]

    class Broken(Orders):
        service = exchanged(SERVICE, {model: decide})

    found_soon = settings(SETTINGS, phases=[Phase.generate], max_examples=2000, report_multiple_bugs=False)
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(Broken, settings=found_soon)
