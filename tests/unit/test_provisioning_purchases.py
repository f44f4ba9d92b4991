"""What can be bought for an account: at once with money, through the paid-action saga with the account's own units."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from popfax_contracts.dates import months_later
from popfax_contracts.ledger import (
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExtended,
    AddOptionsPack,
    CallForwardingEnabled,
    CloseAccount,
    EnableCallForwarding,
    ExtendAccount,
    OptionsPackAdded,
    PaidActionRefused,
    PersonErased,
)
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline, SagaRow, Status
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import (
    AccountState,
    Address,
    Option,
    Payment,
    Plan,
    Purchase,
    Subscriber,
)
from services.provisioning.handlers import _content
from services.provisioning.store import saga_of
from tests.unit.given import NOW, Scene, given, id_of, incoming
from tests.unit.test_provisioning import ADA, NEW, SEND, SIGNED_UP

REQUEST = id_of("purchase")
SAGA = saga_of(REQUEST)
YEAR = timedelta(365)

ACCOUNT = replace(SIGNED_UP, plan="send_only", expires_at=NOW + timedelta(100))
GONE = replace(ACCOUNT, expires_at=NOW - timedelta(5), state=AccountState.EXPIRED, reminded_days=1)
CLOSED = ACCOUNT.closed(NOW)
EXTENDED = replace(ACCOUNT, expires_at=months_later(NOW + timedelta(100), 12))
WITH_PACK = replace(ACCOUNT, options_pack=True)
FORWARDED = replace(ACCOUNT, forward_to="+33199000001")
ON_SALE = (SEND, Option("options_pack", 30), Option("call_forwarding", 20))

Purchasing = ExtendAccount | AddOptionsPack | EnableCallForwarding
Make = Callable[..., Purchasing]


def extend(**changes: Any) -> ExtendAccount:
    return ExtendAccount(**{"request_id": REQUEST, "account_id": ADA, "price_units": 10, **changes})


def add_pack(**changes: Any) -> AddOptionsPack:
    return AddOptionsPack(**{"request_id": REQUEST, "account_id": ADA, "price_units": 30, **changes})


def forward(**changes: Any) -> EnableCallForwarding:
    fields = {"request_id": REQUEST, "account_id": ADA, "price_units": 20, "forward_to": "+33199000001"}
    return EnableCallForwarding(**{**fields, **changes})


MONEY = {"price_units": None, "payment_reference": "invoice/7"}


def refused(command: Purchasing, code: str) -> PaidActionRefused:
    return PaidActionRefused(
        request_id=command.request_id,
        account_id=command.account_id,
        action=ACTIONS[type(command)],
        code=code,
        command_type=command.TYPE,
    )


ACTIONS = {ExtendAccount: "extension", AddOptionsPack: "options_pack", EnableCallForwarding: "call_forwarding"}


def bought(command: Purchasing, account: Subscriber) -> Message:
    told = {"request_id": REQUEST, "account_id": ADA, "price_units": command.price_units}
    if isinstance(command, ExtendAccount):
        return AccountExtended(**told, expires_at=account.expires_at)
    return OptionsPackAdded(**told) if isinstance(command, AddOptionsPack) else CallForwardingEnabled(**told)


KINDS: list[tuple[Make, Subscriber]] = [(extend, EXTENDED), (add_pack, WITH_PACK), (forward, FORWARDED)]
each_kind = pytest.mark.parametrize(("make", "after"), KINDS, ids=["extension", "options pack", "call forwarding"])

RESERVED = UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=10)
SHORT = UnitsRefused(hold_id=SAGA, account_id=ADA, code="units_short", command_type=ReserveUnits.TYPE)
CAPTURED = HoldCaptured(hold_id=SAGA, account_id=ADA, amount_units=10)
RELEASED = HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=10)
CAPTURE = CaptureHold(hold_id=SAGA, account_id=ADA)
RELEASE = ReleaseHold(hold_id=SAGA, account_id=ADA)
DEADLINE = SagaDeadline(saga_id=SAGA)
CANCEL, RETRY = CancelSaga(saga_id=SAGA), RetrySaga(saga_id=SAGA)


def opened(command: Purchasing, account: Subscriber = ACCOUNT) -> Scene:
    return given(PROVISIONING, *ON_SALE, account).when(command, actor=ADA)


def without_saga(scene: Scene) -> list[Any]:
    return [row for row in scene.rows() if not isinstance(row, SagaRow)]


def account_of(scene: Scene) -> Subscriber:
    account = scene.only(Subscriber)
    assert isinstance(account, Subscriber)
    return account


def purchase_of(scene: Scene) -> Purchase:
    purchase = scene.only(Purchase)
    assert isinstance(purchase, Purchase)
    return purchase


def saga(scene: Scene) -> SagaRow:
    row = scene.only(SagaRow)
    assert isinstance(row, SagaRow)
    return row


# --- with money ---


@each_kind
def test_gives_at_once_what_is_paid_with_money_whoever_paid(make: Make, after: Subscriber) -> None:
    command = make(**MONEY)
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(command, actor=NEW)
    scene.then(bought(command, after))
    end = after.expires_at if isinstance(command, ExtendAccount) else None
    purchase = Purchase(REQUEST, ADA, purchase_of(scene).action, None, _content(command), None, end, NOW)
    scene.leaves(*ON_SALE, after, purchase, Payment("invoice/7", REQUEST))
    assert purchase.action == ACTIONS[type(command)]


@each_kind
def test_gives_once_what_is_paid_with_money_once(make: Make, after: Subscriber) -> None:
    command = make(**MONEY)
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(command)
    rows = scene.rows()
    scene.when(command).then(bought(command, after)).leaves(*rows)


def test_gives_the_same_answer_when_the_account_is_extended_again() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(extend(**MONEY))
    scene.when(extend(price_units=None, payment_reference="invoice/8", request_id=id_of("another")))
    scene.when(extend(**MONEY)).then(bought(extend(**MONEY), EXTENDED))


@pytest.mark.parametrize(
    "again",
    [
        lambda: extend(**MONEY, request_id=id_of("another")),
        lambda: add_pack(**MONEY, request_id=id_of("another")),
        lambda: forward(**MONEY, request_id=id_of("another")),
        lambda: extend(**MONEY, request_id=id_of("another"), account_id=NEW),
    ],
    ids=["for the same", "for the pack", "for forwarding", "for another account"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_payment_pays_once(again: Callable[[], Purchasing], at_once: bool) -> None:
    other = replace(ACCOUNT, id=NEW, email="new@example.org")
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT, other)
    second, told = again(), [bought(extend(**MONEY), EXTENDED)]
    if at_once:
        scene.when(extend(**MONEY), second).then(*told, refused(second, "payment_used"))
    else:
        scene.when(extend(**MONEY)).then(*told)
        scene.when(second).then(refused(second, "payment_used"))
    assert scene.database.contents.tables["payments"] == {"invoice/7": Payment("invoice/7", REQUEST)}


def test_a_refused_purchase_uses_no_payment() -> None:
    scene = given(PROVISIONING, *ON_SALE, WITH_PACK).when(add_pack(**MONEY))
    scene.then(refused(add_pack(**MONEY), "already_added"))
    scene.when(extend(**MONEY, request_id=id_of("another")))
    scene.then(AccountExtended(request_id=id_of("another"), account_id=ADA, expires_at=EXTENDED.expires_at))


def test_asks_no_price_of_what_is_paid_with_money() -> None:
    scene = given(PROVISIONING, SEND, ACCOUNT).when(add_pack(**MONEY))
    scene.then(bought(add_pack(**MONEY), ACCOUNT))


# --- refusals at the beginning ---

NO_PLAN = replace(SIGNED_UP, expires_at=None)
WRONG_PRICE = {"price_units": 11}

# Each has what the codes after it need as well: the first that is found is told.
REFUSALS: list[tuple[str, list[Any], Purchasing, bool]] = [
    ("unknown_account", [], extend(**WRONG_PRICE), False),
    ("not_holder", [replace(CLOSED, plan=None)], extend(**WRONG_PRICE), False),
    ("account_closed", [replace(CLOSED, plan=None)], extend(**WRONG_PRICE), True),
    ("no_plan", [NO_PLAN], extend(**WRONG_PRICE), True),
    ("price_changed", [ACCOUNT], extend(**WRONG_PRICE), True),
    ("unknown_account", [], add_pack(**WRONG_PRICE), False),
    ("not_holder", [replace(CLOSED, options_pack=True)], add_pack(**WRONG_PRICE), False),
    ("account_closed", [replace(CLOSED, options_pack=True)], add_pack(**WRONG_PRICE), True),
    ("account_expired", [replace(GONE, options_pack=True)], add_pack(**WRONG_PRICE), True),
    ("already_added", [WITH_PACK], add_pack(**WRONG_PRICE), True),
    ("price_changed", [ACCOUNT], add_pack(**WRONG_PRICE), True),
    ("unknown_account", [], forward(**WRONG_PRICE), False),
    ("not_holder", [CLOSED], forward(**WRONG_PRICE), False),
    ("account_closed", [CLOSED], forward(**WRONG_PRICE), True),
    ("account_expired", [replace(GONE, forward_to="+33199000001")], forward(**WRONG_PRICE), True),
    ("already_enabled", [FORWARDED], forward(**WRONG_PRICE), True),
    ("price_changed", [ACCOUNT], forward(**WRONG_PRICE), True),
]


@pytest.mark.parametrize(
    ("code", "rows", "command", "by_holder"), REFUSALS, ids=[f"{type(c).__name__} {code}" for code, _, c, _ in REFUSALS]
)
def test_refuses_in_the_documented_order_and_for_good(
    code: str, rows: list[Any], command: Purchasing, by_holder: bool
) -> None:
    scene = given(PROVISIONING, *ON_SALE, *rows).when(command, actor=ADA if by_holder else NEW)
    scene.then(refused(command, code)).leaves(*ON_SALE, *rows, purchase_of(scene))
    assert (purchase_of(scene).code, purchase_of(scene).decided_at) == (code, NOW)
    scene.database.contents.tables["subscribers"] = {ADA: ACCOUNT}
    scene.when(command, actor=ADA).then(refused(command, code))


@pytest.mark.parametrize("make", [extend, add_pack, forward])
def test_refuses_with_money_what_the_account_can_not_have(make: Make) -> None:
    given(PROVISIONING, *ON_SALE, CLOSED).when(make(**MONEY)).then(refused(make(**MONEY), "account_closed"))


def test_refuses_an_option_that_is_not_on_sale_for_units() -> None:
    given(PROVISIONING, SEND, ACCOUNT).when(add_pack(), actor=ADA).then(refused(add_pack(), "price_changed"))


@pytest.mark.parametrize(
    "other",
    [
        extend(price_units=11),
        extend(**MONEY),
        extend(account_id=NEW),
        AddOptionsPack(request_id=REQUEST, account_id=ADA, price_units=10),
    ],
    ids=["price", "payment", "account", "action"],
)
def test_refuses_a_request_whose_id_has_other_content(other: Purchasing) -> None:
    scene = opened(extend())
    rows = scene.rows()
    scene.when(other, actor=ADA).then(refused(other, "id_conflict")).leaves(*rows)


def test_refuses_another_number_under_the_same_id() -> None:
    other = forward(forward_to="+33199000002")
    opened(forward()).when(other, actor=ADA).then(refused(other, "id_conflict"))


# --- with units: the saga ---


@each_kind
def test_asks_for_the_units_first(make: Make, after: Subscriber) -> None:
    command = make()
    scene = opened(command)
    units = ReserveUnits(
        hold_id=SAGA, account_id=ADA, amount_units=command.price_units, extends=isinstance(command, ExtendAccount)
    )
    scene.then(units)
    pending = Purchase(REQUEST, ADA, purchase_of(scene).action, command.price_units, _content(command))
    scene.leaves(*ON_SALE, ACCOUNT, pending, saga(scene))


@each_kind
def test_gives_when_the_units_are_held_and_tells_when_they_are_paid(make: Make, after: Subscriber) -> None:
    command = make()
    scene = opened(command)
    scene.when(RESERVED).then(CAPTURE)
    assert account_of(scene) == after
    assert purchase_of(scene).decided_at is None
    scene.when(CAPTURED).then(bought(command, after))
    assert account_of(scene) == after
    assert saga(scene).status is Status.COMPLETED
    assert (purchase_of(scene).code, purchase_of(scene).decided_at) == (None, NOW)


def test_an_expired_account_is_extended_from_now() -> None:
    scene = opened(extend(), GONE).when(RESERVED)
    assert account_of(scene) == replace(GONE, state=AccountState.ACTIVE, expires_at=NOW + YEAR, reminded_days=None)


def test_says_nothing_to_a_repetition_while_the_saga_runs() -> None:
    scene = opened(extend())
    rows = scene.rows()
    scene.when(extend(), actor=ADA).then().leaves(*rows)
    scene.when(RESERVED)
    rows = scene.rows()
    scene.when(extend(), actor=ADA).then().leaves(*rows)


def test_gives_a_repetition_the_same_answer_when_the_saga_has_ended() -> None:
    scene = opened(extend()).when(RESERVED, CAPTURED)
    rows = scene.rows()
    scene.when(extend(), actor=ADA).then(bought(extend(), EXTENDED)).leaves(*rows)
    scene = opened(extend()).when(SHORT)
    rows = scene.rows()
    scene.when(extend(), actor=ADA).then(refused(extend(), "units_short")).leaves(*rows)


def test_a_command_and_its_repetition_in_one_batch_open_one_saga() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT)
    scene.when(incoming(extend(), ADA, id_of("one")), incoming(extend(), ADA, id_of("two")))
    assert [type(effect) for effect in scene.effects] == [ReserveUnits]


@each_kind
def test_refuses_when_the_units_are_short(make: Make, after: Subscriber) -> None:
    scene = opened(make()).when(SHORT).then(refused(make(), "units_short"))
    assert account_of(scene) == ACCOUNT
    assert saga(scene).status is Status.REFUSED
    assert purchase_of(scene).code == "units_short"


@pytest.mark.parametrize(
    ("make", "meanwhile", "code"),
    [
        (extend, CLOSED, "account_closed"),
        (add_pack, CLOSED, "account_closed"),
        (add_pack, GONE, "account_expired"),
        (add_pack, WITH_PACK, "already_added"),
        (forward, FORWARDED, "already_enabled"),
    ],
)
def test_gives_the_units_back_when_the_account_has_changed_too_much(
    make: Make, meanwhile: Subscriber, code: str
) -> None:
    scene = opened(make())
    scene.database.contents.tables["subscribers"] = {ADA: meanwhile}
    scene.when(RESERVED).then(RELEASE)
    assert account_of(scene) == meanwhile
    scene.when(RELEASED).then(refused(make(), code))
    assert account_of(scene) == meanwhile
    assert (saga(scene).status, purchase_of(scene).code) == (Status.REFUSED, code)


def test_keeps_to_the_price_that_was_shown_when_it_changes_meanwhile() -> None:
    scene = opened(extend())
    scene.database.contents.tables["plans"] = {SEND.plan: Plan("send_only", 99, 12, fax_number=False)}
    scene.when(RESERVED).then(CAPTURE)


def test_two_purchases_of_one_thing_give_it_once() -> None:
    second = id_of("second")
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(add_pack(), add_pack(request_id=second), actor=ADA)
    other = saga_of(second)
    scene.when(RESERVED, UnitsReserved(hold_id=other, account_id=ADA, amount_units=30))
    scene.then(CAPTURE, ReleaseHold(hold_id=other, account_id=ADA))
    scene.when(HoldReleased(hold_id=other, account_id=ADA, amount_units=30))
    scene.then(refused(add_pack(request_id=second), "already_added"))


def test_two_extensions_that_end_out_of_order_tell_each_its_own_end() -> None:
    second = id_of("second")
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT).when(extend(), extend(request_id=second), actor=ADA)
    other = saga_of(second)
    scene.when(RESERVED, UnitsReserved(hold_id=other, account_id=ADA, amount_units=10))
    end = months_later(NOW + timedelta(100), 24)
    assert end is not None
    scene.when(HoldCaptured(hold_id=other, account_id=ADA, amount_units=10), CAPTURED)
    scene.then(
        AccountExtended(request_id=second, account_id=ADA, expires_at=end, price_units=10),
        AccountExtended(request_id=REQUEST, account_id=ADA, expires_at=end - YEAR, price_units=10),
    )


def test_an_extension_with_money_between_the_steps_of_one_with_units_keeps_their_ends_apart() -> None:
    bought = id_of("second")
    scene = opened(extend()).when(RESERVED)
    scene.when(extend(**MONEY, request_id=bought))
    end = months_later(NOW + timedelta(100), 24)
    assert end is not None
    scene.then(
        AccountExtended(request_id=bought, account_id=ADA, expires_at=end),
    )
    scene.when(CAPTURED)
    scene.then(AccountExtended(request_id=REQUEST, account_id=ADA, expires_at=end - YEAR, price_units=10))


# --- calling off ---


@pytest.mark.parametrize(("call_off", "code"), [(DEADLINE, "timed_out"), (CANCEL, "cancelled")])
@pytest.mark.parametrize("make", [extend, add_pack, forward])
def test_called_off_before_the_units_are_held_it_is_refused(make: Make, call_off: Message, code: str) -> None:
    scene = opened(make()).when(call_off).then(RELEASE)
    scene.when(RELEASED).then(refused(make(), code))
    assert account_of(scene) == ACCOUNT
    assert purchase_of(scene).code == code


@pytest.mark.parametrize("call_off", [DEADLINE, CANCEL])
def test_called_off_while_the_units_are_being_held_it_gives_nothing(call_off: Message) -> None:
    scene = opened(forward()).when(call_off).then(RELEASE).when(RESERVED).then()
    assert account_of(scene) == ACCOUNT
    scene.when(RELEASED)
    assert saga(scene).status is Status.REFUSED


@pytest.mark.parametrize("call_off", [DEADLINE, CANCEL])
def test_called_off_when_it_is_given_already_it_goes_on(call_off: Message) -> None:
    scene = opened(forward()).when(RESERVED).when(call_off).then()
    assert account_of(scene) == FORWARDED
    scene.when(CAPTURED).then(bought(forward(), FORWARDED))


def test_asks_again_for_what_it_waits_for() -> None:
    units = ReserveUnits(hold_id=SAGA, account_id=ADA, amount_units=10, extends=True)
    scene = opened(extend()).when(RETRY).then(units)
    scene.when(RESERVED).when(RETRY).then(CAPTURE)
    scene.when(CAPTURED).when(RETRY).then()
    opened(extend()).when(CANCEL).when(RETRY).then(RELEASE)


# --- late and repeated replies ---


def test_repeated_replies_change_nothing() -> None:
    scene = opened(extend()).when(RESERVED)
    rows = without_saga(scene)
    scene.when(RESERVED).then()
    assert without_saga(scene) == rows
    scene.when(CAPTURED)
    rows = without_saga(scene)
    scene.when(CAPTURED, RESERVED, RELEASED, SHORT, DEADLINE, CANCEL).then()
    assert without_saga(scene) == rows
    assert saga(scene).status is Status.COMPLETED


def test_units_that_are_held_after_the_end_are_given_back() -> None:
    scene = opened(extend()).when(CANCEL).when(RELEASED)
    rows = without_saga(scene)
    scene.when(RESERVED).then(RELEASE)
    assert without_saga(scene) == rows


def test_holds_of_other_services_sagas_are_none_of_ours() -> None:
    others = [UnitsReserved(hold_id=NEW, account_id=ADA, amount_units=10), replace_hold(CAPTURED), replace_hold(SHORT)]
    given(PROVISIONING, *ON_SALE, ACCOUNT).when(*others).then().leaves(*ON_SALE, ACCOUNT)


def replace_hold(event: HoldCaptured | UnitsRefused) -> Message:
    return event.model_copy(update={"hold_id": NEW})


@pytest.mark.parametrize("ending", [[RESERVED, CAPTURED], [SHORT], [CANCEL, RELEASED]])
def test_forgets_the_number_when_it_ends(ending: list[Message]) -> None:
    scene = opened(forward())
    assert saga(scene).data["forward_to"] == "+33199000001"
    for message in ending:
        scene.when(message)
    assert "forward_to" not in saga(scene).data
    assert "+33199000001" not in repr((saga(scene), purchase_of(scene)))


# --- and closing ---

CLOSE = CloseAccount(account_id=ADA)
ADDRESS = Address("ada@example.org", ADA)


def test_closed_before_the_units_are_held_nothing_is_given() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT, ADDRESS).when(forward(), actor=ADA).when(CLOSE, actor=ADA)
    scene.when(RESERVED).then(RELEASE)
    scene.when(RELEASED).then(refused(forward(), "account_closed"))
    assert account_of(scene) == CLOSED
    assert "+33199000001" not in repr(scene.rows())


def test_closed_after_it_was_given_it_is_paid_all_the_same() -> None:
    scene = given(PROVISIONING, *ON_SALE, ACCOUNT, ADDRESS).when(forward(), actor=ADA).when(RESERVED)
    scene.when(CLOSE, actor=ADA)
    scene.then(AccountClosed(account_id=ADA), PersonErased(subscriber_id=ADA))
    scene.when(CAPTURED).then(bought(forward(), CLOSED))
    assert account_of(scene) == CLOSED
    assert "+33199000001" not in repr(scene.rows())
