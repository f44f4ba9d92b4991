"""What the owner of a group pays for a member's account, as provisioning decides it: granted or refused, for good."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from popfax_contracts.dates import months_later
from popfax_contracts.provisioning import (
    AccountExtended,
    CancelGrant,
    GrantPurchase,
    GrantRefused,
    OptionsPackAdded,
)
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import Action, Grant, Option, Plan
from services.provisioning.handlers import _content
from tests.unit.given import NOW, Scene, given, id_of
from tests.unit.test_provisioning import ADA, SEND
from tests.unit.test_provisioning_purchases import ACCOUNT, CLOSED, EXTENDED, GONE, WITH_PACK

OWNER, REQUEST = id_of("owner"), id_of("payment")
PACK = Option("options_pack", 30)
NEVER_ENDS = replace(ACCOUNT, plan=None, expires_at=None)


def extend(**changes: Any) -> GrantPurchase:
    fields = {"request_id": REQUEST, "account_id": ADA, "action": "extension", "payer_id": OWNER, "price_units": 10}
    return GrantPurchase(**{**fields, **changes})


def add_pack(**changes: Any) -> GrantPurchase:
    return extend(**{"action": "options_pack", "price_units": 30, **changes})


def calling_off(command: GrantPurchase) -> CancelGrant:
    return CancelGrant(request_id=command.request_id, account_id=command.account_id, action=command.action)


EXTEND = extend()
CANCEL = calling_off(EXTEND)
DONE = AccountExtended(
    request_id=REQUEST, account_id=ADA, expires_at=EXTENDED.expires_at, price_units=10, paid_by=OWNER
)


def refused(code: str, command: GrantPurchase | CancelGrant = EXTEND) -> GrantRefused:
    return GrantRefused(
        request_id=command.request_id,
        account_id=ADA,
        action=command.action,
        code=code,
        command_type=command.TYPE,
    )


def grant(command: GrantPurchase, code: str | None = None, **changes: Any) -> Grant:
    row = Grant(
        id=REQUEST,
        account_id=ADA,
        action=Action(command.action),
        payer_id=OWNER,
        price_units=command.price_units,
        content=_content(command),
        code=code,
        decided_at=NOW,
    )
    return replace(row, **changes)


def scene(*rows: Any) -> Scene:
    return given(PROVISIONING, SEND, PACK, *rows)


def test_extends_an_account_that_its_holder_does_not_pay_for() -> None:
    seen = scene(ACCOUNT).when(EXTEND, actor=OWNER).then(DONE)
    seen.leaves(SEND, PACK, EXTENDED, grant(EXTEND, expires_at=EXTENDED.expires_at))


def test_extends_an_expired_account_from_now_if_it_ended_when_the_payer_was_shown() -> None:
    end = months_later(NOW, 12)
    shown = extend(expires_at=GONE.expires_at)
    told = DONE.model_copy(update={"expires_at": end})
    active = GONE.lasting(end, NOW)
    scene(GONE).when(shown, actor=OWNER).then(told).leaves(SEND, PACK, active, grant(shown, expires_at=end))


def test_adds_the_options_pack() -> None:
    told = OptionsPackAdded(request_id=REQUEST, account_id=ADA, price_units=30, paid_by=OWNER)
    scene(ACCOUNT).when(add_pack(), actor=OWNER).then(told).leaves(SEND, PACK, WITH_PACK, grant(add_pack()))


DAY = timedelta(1)


@pytest.mark.parametrize(
    ("account", "command", "code"),
    [
        (None, EXTEND, "target_closed"),
        (CLOSED, EXTEND, "target_closed"),
        (CLOSED, add_pack(), "target_closed"),
        (NEVER_ENDS, EXTEND, "no_plan"),
        (GONE, add_pack(), "target_expired"),
        (WITH_PACK, add_pack(), "already_added"),
        (replace(ACCOUNT, expires_at=NOW.replace(year=2199)), EXTEND, "too_far_ahead"),
        (ACCOUNT, extend(expires_at=NOW), "end_changed"),
        (ACCOUNT, extend(price_units=9), "price_changed"),
        (ACCOUNT, add_pack(price_units=31), "price_changed"),
    ],
)
def test_refuses_and_changes_nothing_with(account: Any, command: GrantPurchase, code: str) -> None:
    rows = [] if account is None else [account]
    seen = scene(*rows).when(command, actor=OWNER).then(refused(code, command))
    seen.leaves(SEND, PACK, *rows, grant(command, code))
    cancel = calling_off(command)
    seen.when(cancel, actor=OWNER).then(refused(code, cancel)).leaves(SEND, PACK, *rows, grant(command, code))


def test_an_option_that_is_off_sale_is_not_granted() -> None:
    seen = given(PROVISIONING, SEND, replace(PACK, on_sale=False), ACCOUNT).when(add_pack(), actor=OWNER)
    seen.then(refused("not_on_sale", add_pack()))
    cancel = calling_off(add_pack())
    seen.when(cancel, actor=OWNER).then(refused("not_on_sale", cancel))


def test_a_plan_that_is_off_sale_is_extended_all_the_same() -> None:
    plan = Plan(SEND.plan, SEND.price_units, SEND.validity_months, SEND.fax_number, on_sale=False)
    given(PROVISIONING, plan, ACCOUNT).when(EXTEND, actor=OWNER).then(DONE)


def test_the_same_request_gets_the_same_answer_and_is_granted_once() -> None:
    seen = scene(ACCOUNT).when(EXTEND, actor=OWNER)
    seen.when(EXTEND, actor=OWNER, at=NOW + DAY).then(DONE)
    seen.leaves(SEND, PACK, EXTENDED, grant(EXTEND, expires_at=EXTENDED.expires_at))


def test_a_refusal_stays_one_though_the_price_is_right_now() -> None:
    dear = extend(price_units=11)
    seen = scene(ACCOUNT).when(dear, actor=OWNER)
    seen.database.contents.tables["plans"] = {SEND.plan: replace(SEND, price_units=11)}
    seen.when(dear, actor=OWNER).then(refused("price_changed", dear))


def test_the_same_id_for_something_else_is_a_conflict() -> None:
    seen = scene(ACCOUNT).when(EXTEND, actor=OWNER)
    for other in (extend(payer_id=id_of("stranger")), add_pack(), extend(price_units=9)):
        seen.when(other, actor=OWNER).then(refused("id_conflict", other))


def test_two_payers_extend_once_what_both_were_shown() -> None:
    """The second one is refused, rather than paying for a period that nobody has asked for."""
    one, other = extend(expires_at=ACCOUNT.expires_at), extend(request_id=id_of("other"), expires_at=ACCOUNT.expires_at)
    scene(ACCOUNT).when(one, other, actor=OWNER).then(DONE, refused("end_changed", other))


def test_a_cancellation_that_comes_first_burns_the_request() -> None:
    seen = scene(ACCOUNT).when(CANCEL, actor=OWNER).then(refused("cancelled", CANCEL))
    seen.when(EXTEND, actor=OWNER).then(refused("cancelled"))
    burned = Grant(REQUEST, ADA, Action.EXTENSION, None, None, b"", "cancelled", NOW)
    seen.leaves(SEND, PACK, ACCOUNT, burned)


@pytest.mark.parametrize(
    ("command", "answer"), [(EXTEND, DONE), (extend(price_units=9), refused("price_changed", CANCEL))]
)
def test_a_cancellation_that_comes_second_tells_what_was_decided(command: GrantPurchase, answer: Any) -> None:
    scene(ACCOUNT).when(command, actor=OWNER).when(CANCEL, actor=OWNER).then(answer)


def test_a_cancellation_of_somebody_elses_grant_is_a_conflict() -> None:
    other = CancelGrant(request_id=REQUEST, account_id=id_of("another"), action="extension")
    seen = scene(ACCOUNT).when(EXTEND, actor=OWNER).when(other, actor=OWNER)
    seen.then(refused("id_conflict", CANCEL).model_copy(update={"account_id": other.account_id}))


def test_what_was_granted_is_told_again_after_the_account_is_closed() -> None:
    row = grant(EXTEND, expires_at=EXTENDED.expires_at)
    scene(EXTENDED.closed(NOW), row).when(EXTEND, actor=OWNER).then(DONE)
