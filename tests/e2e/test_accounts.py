"""Accounts through the whole product: they expire by their timers, are extended, change, and close."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.ledger import CreditRefused, CreditUnits, SpendRefused, SpendUnits, UnitsCredited, UnitsSpent
from popfax_contracts.message import Message
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExtended,
    AddOptionsPack,
    CallForwardingDisabled,
    CallForwardingEnabled,
    ChangeEmail,
    CloseAccount,
    DisableCallForwarding,
    EmailChanged,
    EnableCallForwarding,
    ExtendAccount,
    OptionsPackAdded,
    PaidActionRefused,
    RegisterSubscriber,
    SubscriberRegistered,
)
from popfax_contracts.topics import Principal
from services.provisioning import catalogue
from tests.e2e.driver import PRICES, Owner, World, wait

OPTIONS = {name: option.price_units for name, option in catalogue.read(catalogue.DEFAULT).options.items()}
YEAR = timedelta(days=365)


def subscriber(world: World, left: timedelta, units: int) -> Owner:
    """Register somebody whose account ends so soon, with so many units."""
    made = Owner(uuid4(), f"short{uuid4().hex[:8]}.{world.mark}@example.com", units)
    body = RegisterSubscriber(
        subscriber_id=made.id,
        email=made.email,
        first_name="Max",
        last_name="Court",
        language=Language.FR,
        plan="send_only",
        expires_at=datetime.now(UTC) + left,
    )
    world.ask(body, SubscriberRegistered)
    world.ask(CreditUnits(credit_id=uuid4(), account_id=made.id, amount_units=units), UnitsCredited)
    return made


def fax(account: Owner) -> SpendUnits:
    return SpendUnits(spend_id=uuid4(), account_id=account.id, amount_units=1, purpose="fax", reference="fax-1")


def test_an_account_expires_keeps_its_units_and_comes_back_with_its_own(world: World) -> None:
    account = subscriber(world, timedelta(seconds=1), units=100)
    world.log.wait(1, lambda s: s.says(AccountExpired) and s["account_id"] == str(account.id))
    shown = "SELECT state FROM subscribers WHERE id = %s"
    _wait_for_state(world, account, "expired")
    assert world.ask(fax(account), SpendRefused, actor=account.id)["code"] == "account_expired"
    bought = world.ask(CreditUnits(credit_id=uuid4(), account_id=account.id, amount_units=5), UnitsCredited)
    assert bought.says(UnitsCredited), "an expired account can receive"
    options = AddOptionsPack(request_id=uuid4(), account_id=account.id, price_units=OPTIONS["options_pack"])
    assert world.ask(options, PaidActionRefused, actor=account.id)["code"] == "account_expired"
    extension = ExtendAccount(request_id=uuid4(), account_id=account.id, price_units=PRICES["send_only"])
    extended = world.ask(extension, AccountExtended, PaidActionRefused, actor=account.id)
    assert datetime.fromisoformat(extended["expires_at"]) - datetime.now(UTC) > YEAR - timedelta(minutes=5)
    _wait_for_state(world, account, "active")
    assert world.ask(fax(account), UnitsSpent, SpendRefused, actor=account.id).says(UnitsSpent)
    world.settle()
    assert world.rows(Principal.PROVISIONING, shown, account.id) == [("active",)]
    assert world.available(account) == 105 - PRICES["send_only"] - 1
    subjects = [str(mail["subject"]) for mail in world.mails_to(account.email)]
    assert len(subjects) == 2, f"that it has expired, and that it is extended: {subjects}"
    world.check_log()


def _wait_for_state(world: World, account: Owner, state: str) -> None:
    for service, query in (
        (Principal.LEDGER, "SELECT state FROM accounts WHERE id = %s"),
        (Principal.GROUPS, "SELECT state FROM subscribers WHERE id = %s"),
    ):
        wait(lambda s=service, q=query: world.rows(s, q, account.id) == [(state,)], f"{state} in {service}")  # type: ignore[misc]


@pytest.mark.parametrize("paid_with", ["units", "money"])
def test_what_is_bought_for_an_account_is_paid_once(world: World, paid_with: str) -> None:
    account = subscriber(world, YEAR, units=500)
    world.settle()

    def priced(units: int) -> dict[str, Any]:
        payment = {"payment_reference": f"card-{uuid4()}"} if paid_with == "money" else {"price_units": units}
        return {"request_id": uuid4(), "account_id": account.id, **payment}

    bought: list[tuple[Message, type[Message]]] = [
        (ExtendAccount.model_validate(priced(PRICES["send_only"])), AccountExtended),
        (AddOptionsPack.model_validate(priced(OPTIONS["options_pack"])), OptionsPackAdded),
        (
            EnableCallForwarding.model_validate(priced(OPTIONS["call_forwarding"]) | {"forward_to": "+33199000111"}),
            CallForwardingEnabled,
        ),
    ]
    for body, answer in bought:
        for _ in range(2):  # under another message id, the same request gets the same answer
            assert world.ask(body, answer, PaidActionRefused, actor=account.id).says(answer)
    world.ask(DisableCallForwarding(account_id=account.id), CallForwardingDisabled, actor=account.id)
    world.settle()
    cost = 0 if paid_with == "money" else PRICES["send_only"] + sum(OPTIONS.values())
    assert world.available(account) == 500 - cost
    assert not [
        s for s in world.log.read_to_end() if s.topic.endswith(".events") and b"+33199000111" in (s.value or b"")
    ]
    world.check_log()


def test_an_action_that_can_not_be_paid_is_not_done(world: World) -> None:
    account = subscriber(world, YEAR, units=1)
    body = AddOptionsPack(request_id=uuid4(), account_id=account.id, price_units=OPTIONS["options_pack"])
    assert world.ask(body, OptionsPackAdded, PaidActionRefused, actor=account.id)["code"] == "units_short"
    stranger = body.model_copy(update={"request_id": uuid4()})
    assert world.ask(stranger, PaidActionRefused, actor=uuid4())["code"] == "not_holder"
    world.settle()
    pack = "SELECT options_pack FROM subscribers WHERE id = %s"
    assert world.rows(Principal.PROVISIONING, pack, account.id) == [(False,)]
    assert world.available(account) == 1


@pytest.mark.parametrize("order", ["extended first", "expired first"])
def test_of_an_extension_and_the_expiry_either_may_come_first(world: World, order: str) -> None:
    account = subscriber(world, timedelta(seconds=1) if order == "expired first" else YEAR, units=100)
    if order == "expired first":
        world.log.wait(1, lambda s: s.says(AccountExpired) and s["account_id"] == str(account.id))
    extension = ExtendAccount(request_id=uuid4(), account_id=account.id, price_units=PRICES["send_only"])
    assert world.ask(extension, AccountExtended, PaidActionRefused, actor=account.id).says(AccountExtended)
    world.settle()
    assert world.rows(Principal.PROVISIONING, "SELECT state FROM subscribers WHERE id = %s", account.id) == [
        ("active",)
    ]
    expired = [s for s in world.log.read_to_end() if s.says(AccountExpired) and s["account_id"] == str(account.id)]
    assert len(expired) == (order == "expired first")


def test_an_address_that_was_given_up_is_free_and_a_closed_account_is_for_ever(world: World) -> None:
    owner, other = world.owners(2)
    fresh = f"fresh.{uuid4().hex[:8]}.{world.mark}@example.com"
    assert world.ask(ChangeEmail(account_id=owner.id, email=fresh), EmailChanged, actor=owner.id)
    assert world.ask(ChangeEmail(account_id=other.id, email=owner.email), EmailChanged, actor=other.id)
    closed = world.ask(CloseAccount(account_id=owner.id), AccountClosed, actor=owner.id)
    assert closed["account_id"] == str(owner.id)
    wait(
        lambda: world.rows(Principal.LEDGER, "SELECT state FROM accounts WHERE id = %s", owner.id) == [("closed",)],
        "the ledger knows",
    )
    late = world.ask(CreditUnits(credit_id=UUID(int=uuid4().int), account_id=owner.id, amount_units=5), CreditRefused)
    assert late["code"] == "account_closed"
    world.settle()
    assert world.available(owner) == 1000, "ids and amounts stay"
    world.check_log()
