"""How long a plan is good for, how far ahead that may be, and what is off sale."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from popfax_contracts.dates import LAST_YEAR, months_later
from popfax_contracts.fields import END_OF_TIME, FIRST_MOMENT
from popfax_contracts.groups import AccountCreationRequired
from popfax_contracts.ledger import CaptureHold, HoldReleased, ReleaseHold, UnitsReserved
from popfax_contracts.provisioning import AccountRefused, PlanPublished
from services.groups.consumers import GROUPS
from services.groups.domain import Plan as GroupsPlan
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import Option, Subscriber
from tests.unit.given import given
from tests.unit.test_groups_invitations import INVITE
from tests.unit.test_provisioning import ADA, SEND, provision
from tests.unit.test_provisioning_purchases import (
    ACCOUNT,
    MONEY,
    ON_SALE,
    RESERVED,
    SAGA,
    add_pack,
    extend,
    forward,
    refused,
)


def day(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}T23:30:00+00:00")


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2027-03-01", 12, "2028-03-01"),  # 366 days
        ("2028-03-01", 12, "2029-03-01"),
        ("2028-02-29", 12, "2029-02-28"),
        ("2029-02-28", 12, "2030-02-28"),  # it does not come back to the 29th
        ("2028-02-29", 48, "2032-02-29"),
        ("2031-01-31", 1, "2031-02-28"),
        ("2031-12-31", 2, "2032-02-29"),
        ("2031-11-30", 3, "2032-02-29"),
        ("2098-12-31", 12, "2099-12-31"),
        ("2198-12-31", 12, "2199-12-31"),
    ],
)
def test_a_year_is_a_calendar_year(start: str, months: int, end: str) -> None:
    assert months_later(day(start), months) == day(end)


def test_a_year_is_counted_in_utc() -> None:
    in_tokyo = datetime(2028, 3, 1, 8, tzinfo=timezone(timedelta(hours=9)))
    assert months_later(in_tokyo, 12) == datetime(2029, 2, 28, 23, tzinfo=UTC)


@for_all(st.datetimes(timezones=st.just(UTC)), st.integers(1, 120))
def test_no_start_is_too_early_or_too_late_to_be_asked_about(start: datetime, months: int) -> None:
    end = months_later(start, months)
    assert (end is None) == (start.year * 12 + start.month - 1 + months >= (LAST_YEAR + 1) * 12)
    assert end is None or (start < end and abs((end - start).days - months * 30.44) < 5)


def test_the_last_year_is_that_of_the_messages() -> None:
    assert datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC) == END_OF_TIME
    assert FIRST_MOMENT < END_OF_TIME


FAR = replace(ACCOUNT, expires_at=END_OF_TIME - timedelta(days=100))
BEYOND = replace(ACCOUNT, expires_at=datetime(9999, 12, 31, tzinfo=UTC))
"""As it could be registered once."""


@pytest.mark.parametrize("account", [FAR, BEYOND], ids=["far", "beyond"])
@pytest.mark.parametrize("payment", [{}, MONEY], ids=["units", "money"])
def test_an_extension_beyond_the_last_year_is_refused_and_nothing_is_paid(
    account: Subscriber, payment: dict[str, Any]
) -> None:
    command = extend(**payment)
    given(PROVISIONING, *ON_SALE, account).when(command, actor=ADA).then(refused(command, "too_far_ahead"))


def test_an_extension_that_has_become_too_long_is_given_back() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(extend(), actor=ADA)
    scene.database.contents.tables["subscribers"] = {ADA: FAR}
    scene.when(RESERVED).then(ReleaseHold(hold_id=SAGA, account_id=ADA))
    scene.when(HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=10))
    scene.then(refused(extend(), "too_far_ahead"))


# --- off sale ---

OFF_SALE = replace(SEND, on_sale=False)


def test_a_plan_off_sale_is_for_those_who_have_it() -> None:
    command = provision(plan=SEND.plan, price_units=SEND.price_units)
    ids = {"request_id": command.request_id, "account_id": command.account_id}
    given(PROVISIONING, OFF_SALE).when(command).then(
        AccountRefused(**ids, code="not_on_sale", command_type=command.TYPE)
    )
    raised = replace(OFF_SALE, price_units=11)
    scene = given(PROVISIONING, raised, ACCOUNT).when(extend(price_units=11), actor=ADA)
    assert not any(getattr(each, "code", None) for each in scene.effects), "at the price that was published last"
    given(PROVISIONING, raised, ACCOUNT).when(extend(), actor=ADA).then(refused(extend(), "price_changed"))


def test_a_plan_off_sale_is_learnt_and_not_offered() -> None:
    told = PlanPublished(plan="send_only", price_units=10, validity_months=12, fax_number=False, on_sale=False)
    dear, cheap = GroupsPlan("send_receive", 20, 12), GroupsPlan("send_only", 10, 12)
    scene = given(GROUPS, dear, cheap).when(told).then().leaves(dear, replace(cheap, on_sale=False))
    scene.when(INVITE)
    (required,) = [each for each in scene.effects if isinstance(each, AccountCreationRequired)]
    assert [offer.plan for offer in required.plans] == ["send_receive"]


@pytest.mark.parametrize("payment", [{}, MONEY], ids=["units", "money"])
def test_an_option_off_sale_can_not_be_bought(payment: dict[str, Any]) -> None:
    off = (SEND, Option("options_pack", 30, on_sale=False), Option("call_forwarding", 20, on_sale=False))
    for make in (add_pack, forward):
        command = make(**payment)
        given(PROVISIONING, *off, ACCOUNT).when(command, actor=ADA).then(refused(command, "not_on_sale"))
    kept = replace(ACCOUNT, options_pack=True)
    given(PROVISIONING, *off, kept).when(add_pack(), actor=ADA).then(refused(add_pack(), "already_added"))


def test_what_was_asked_for_while_it_was_on_sale_is_given() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(add_pack(), actor=ADA)
    scene.database.contents.tables["options"] = {"options_pack": Option("options_pack", 30, on_sale=False)}
    scene.when(UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=30))
    assert CaptureHold(hold_id=SAGA, account_id=ADA) in scene.effects
