"""Provisioning's decisions: how an account begins."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.provisioning import (
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    PersonRecorded,
    ProvisionAccount,
    RegisterSubscriber,
    RegistrationRefused,
    SubscriberRegistered,
)
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import AccountState, Address, FaxNumber, NumberState, Plan, Request, Subscriber
from services.provisioning.handlers import _content
from services.provisioning.timers import EXPIRY
from tests.unit.given import NOW, Scene, given, id_of

ADA, NEW, REQUEST = id_of("ada"), id_of("new"), id_of("request")
YEAR = NOW + timedelta(365)

FAX = Plan("send_receive", 20, 12, fax_number=True)
SEND = Plan("send_only", 10, 12, fax_number=False)
FREE = FaxNumber("+331", NumberState.FREE, None)
FREE_TOO = FaxNumber("+332", NumberState.FREE, None)
GIVEN = FaxNumber("+330", NumberState.ASSIGNED, ADA)

SIGNED_UP = Subscriber(ADA, "ada@example.org", "Ada", "L.", "en", None, None, NOW, None)
OWNERS_ADDRESS = Address("ada@example.org", ADA)


def register(**changes: Any) -> RegisterSubscriber:
    fields = {
        "subscriber_id": ADA,
        "email": "ada@example.org",
        "first_name": "Ada",
        "last_name": "L.",
        "language": "en",
    }
    return RegisterSubscriber(**{**fields, **changes})


OWNER = replace(SIGNED_UP, registration=_content(register()))


def provision(**changes: Any) -> ProvisionAccount:
    fields = {
        "request_id": REQUEST,
        "account_id": NEW,
        "plan": "send_receive",
        "price_units": 20,
        "email": "new@example.org",
        "first_name": "Grace",
        "last_name": "H.",
        "language": "fr",
    }
    return ProvisionAccount(**{**fields, **changes})


def person(id_: UUID, email: str, first: str, last: str, language: Language, number: str | None) -> PersonRecorded:
    return PersonRecorded(
        subscriber_id=id_, email=email, first_name=first, last_name=last, language=language, fax_number=number
    )


RECORDED = person(ADA, "ada@example.org", "Ada", "L.", Language.EN, None)
REGISTERED = SubscriberRegistered(subscriber_id=ADA)
PROVISIONED = AccountProvisioned(request_id=REQUEST, account_id=NEW, plan="send_receive", expires_at=YEAR)
NEW_RECORDED = person(NEW, "new@example.org", "Grace", "H.", Language.FR, "+331")
CREATED = Subscriber(NEW, "new@example.org", "Grace", "H.", "fr", "send_receive", "+331", NOW, YEAR)


def not_registered(code: str, id_: UUID = ADA) -> RegistrationRefused:
    return RegistrationRefused(subscriber_id=id_, code=code, command_type=RegisterSubscriber.TYPE)


def refused(code: str, account: UUID = NEW, command: str = ProvisionAccount.TYPE) -> AccountRefused:
    return AccountRefused(request_id=REQUEST, account_id=account, code=code, command_type=command)


def provisioned() -> Scene:
    return given(PROVISIONING, FAX, SEND, FREE, FREE_TOO).when(provision())


# --- registration ---


def test_registers_a_subscriber_and_records_who_they_are() -> None:
    given(PROVISIONING).when(register()).then(REGISTERED, RECORDED).leaves(OWNER, OWNERS_ADDRESS)


def test_gives_the_same_registration_the_same_answer() -> None:
    rows = [OWNER, OWNERS_ADDRESS]
    given(PROVISIONING, *rows).when(register()).then(REGISTERED, RECORDED).leaves(*rows)


@pytest.mark.parametrize(
    "other",
    [
        {"email": "other@example.org"},
        {"first_name": "A."},
        {"last_name": "M."},
        {"language": "fr"},
        {"plan": "gone", "expires_at": YEAR},
    ],
)
def test_refuses_a_registration_whose_id_has_other_content(other: dict[str, Any]) -> None:
    rows = [OWNER, OWNERS_ADDRESS]
    given(PROVISIONING, *rows).when(register(**other)).then(not_registered("id_conflict")).leaves(*rows)


def test_refuses_a_registration_with_a_taken_address() -> None:
    rows = [OWNER, OWNERS_ADDRESS]
    other = register(subscriber_id=NEW, email="ADA@Example.org")
    given(PROVISIONING, *rows).when(other).then(not_registered("email_taken", NEW)).leaves(*rows)


def test_of_two_who_want_an_address_in_one_batch_one_gets_it() -> None:
    scene = given(PROVISIONING).when(register(), register(subscriber_id=NEW))
    scene.then(REGISTERED, RECORDED, not_registered("email_taken", NEW)).leaves(OWNER, OWNERS_ADDRESS)


def test_registers_a_subscriber_whose_account_has_an_end_and_sets_its_timer() -> None:
    command = register(plan="send_only", expires_at=YEAR)
    there = replace(OWNER, plan="send_only", expires_at=YEAR, registration=_content(command))
    registered = SubscriberRegistered(subscriber_id=ADA, expires_at=YEAR, plan="send_only")
    scene = given(PROVISIONING, SEND).when(command).then(registered, RECORDED)
    scene.leaves(SEND, there, OWNERS_ADDRESS)
    assert there.next_due() == YEAR - timedelta(30)
    scene.when(command).then(registered, RECORDED).leaves(SEND, there, OWNERS_ADDRESS)


def test_registers_a_subscriber_whose_account_has_ended_with_a_timer_that_is_due() -> None:
    yesterday = NOW - timedelta(1)
    scene = given(PROVISIONING, SEND).when(register(plan="send_only", expires_at=yesterday))
    subscriber = scene.only(Subscriber)
    assert (subscriber.state, subscriber.reminded_days) == (AccountState.ACTIVE, 1)
    assert subscriber.next_due() == yesterday
    assert EXPIRY.record(subscriber) is not None


def test_refuses_a_registration_in_the_documented_order() -> None:
    command = register(plan="gone", expires_at=YEAR)
    elsewhere = replace(OWNERS_ADDRESS, subscriber_id=NEW)
    given(PROVISIONING, elsewhere, SEND).when(command).then(not_registered("email_taken")).leaves(elsewhere, SEND)
    rows = [OWNER, OWNERS_ADDRESS, SEND]
    given(PROVISIONING, *rows).when(command).then(not_registered("id_conflict")).leaves(*rows)
    given(PROVISIONING, SEND).when(command).then(not_registered("unknown_plan")).leaves(SEND)


def test_gives_the_same_registration_the_same_answer_when_the_address_and_the_end_are_others_by_now() -> None:
    command = register(plan="send_only", expires_at=NOW + timedelta(1))
    changed = replace(
        SIGNED_UP, email="new@example.org", plan="send_only", expires_at=YEAR, registration=_content(command)
    )
    rows = [SEND, changed, Address("new@example.org", ADA)]
    scene = given(PROVISIONING, *rows).when(command).leaves(*rows)
    recorded = person(ADA, "new@example.org", "Ada", "L.", Language.EN, None)
    scene.then(SubscriberRegistered(subscriber_id=ADA, expires_at=YEAR, plan="send_only"), recorded)


def test_refuses_to_register_again_who_has_closed_their_account() -> None:
    closed = OWNER.closed(NOW)
    given(PROVISIONING, closed).when(register()).then(not_registered("id_conflict")).leaves(closed)


def test_refuses_to_register_an_account_that_somebody_else_paid() -> None:
    rows = [CREATED, Address("new@example.org", NEW)]
    command = register(subscriber_id=NEW, email="new@example.org", first_name="Grace", last_name="H.", language="fr")
    given(PROVISIONING, *rows).when(command).then(not_registered("id_conflict", NEW)).leaves(*rows)


# --- accounts ---


def test_creates_an_account_with_a_fax_number() -> None:
    scene = provisioned().then(PROVISIONED, NEW_RECORDED)
    scene.leaves(
        FAX,
        SEND,
        FaxNumber("+331", NumberState.ASSIGNED, NEW),
        FREE_TOO,
        CREATED,
        Address("new@example.org", NEW),
        Request(REQUEST, NEW, None, _content(provision()), NOW, YEAR),
    )


def test_creates_an_account_without_a_number_where_the_plan_has_none() -> None:
    scene = given(PROVISIONING, SEND, GIVEN).when(provision(plan="send_only", price_units=10))
    scene.then(
        AccountProvisioned(request_id=REQUEST, account_id=NEW, plan="send_only", expires_at=YEAR),
        person(NEW, "new@example.org", "Grace", "H.", Language.FR, None),
    )
    assert scene.only(Subscriber).fax_number is None
    assert scene.only(FaxNumber) == GIVEN


TAKEN = Address("new@example.org", ADA)
EXISTING = Subscriber(NEW, "x@example.org", "X", "Y", "fr", None, None, NOW, None)
CHEAPER = Plan("send_receive", 19, 12, fax_number=True)

# Each has what the codes after it need as well: the first that is found is told.
REFUSALS: list[tuple[str, list[Any], ProvisionAccount]] = [
    ("cancelled", [Request(REQUEST, NEW, "cancelled", b"", NOW), EXISTING, TAKEN], provision(plan="gone")),
    ("id_conflict", [EXISTING, TAKEN], provision(plan="gone")),
    ("unknown_plan", [CHEAPER, TAKEN], provision(plan="gone")),
    ("price_changed", [CHEAPER, TAKEN], provision()),
    ("email_taken", [FAX, TAKEN], provision()),
    ("no_fax_number", [FAX, GIVEN], provision()),
]


@pytest.mark.parametrize(("code", "rows", "command"), REFUSALS, ids=[case[0] for case in REFUSALS])
def test_refuses_an_account_in_the_documented_order(code: str, rows: list[Any], command: ProvisionAccount) -> None:
    scene = given(PROVISIONING, *rows).when(command).then(refused(code))
    requests = [row for row in scene.rows() if isinstance(row, Request)]
    assert [request.code for request in requests] == [code]
    rest = [row for row in rows if not isinstance(row, Request)]
    scene.leaves(*rest, *requests)


def test_stays_with_its_refusal_when_the_reason_is_gone() -> None:
    scene = given(PROVISIONING, FAX).when(provision()).then(refused("no_fax_number"))
    scene.database.contents.tables["fax_numbers"] = {FREE.number: FREE}
    scene.when(provision()).then(refused("no_fax_number"))


def test_gives_the_same_request_the_same_answer_and_no_second_account() -> None:
    scene = provisioned()
    rows = scene.rows()
    scene.when(provision()).then(PROVISIONED).leaves(*rows)


@pytest.mark.parametrize(
    "now",
    [
        replace(CREATED, expires_at=YEAR + timedelta(365)),
        replace(CREATED, state=AccountState.EXPIRED),
        CREATED.closed(NOW),
    ],
    ids=["extended", "expired", "closed"],
)
def test_gives_the_same_request_the_same_answer_whatever_the_account_is_by_now(now: Subscriber) -> None:
    rows = [SEND, now, Request(REQUEST, NEW, None, _content(provision()), NOW, YEAR)]
    given(PROVISIONING, *rows).when(provision()).then(PROVISIONED).leaves(*rows)
    given(PROVISIONING, *rows).when(CancelProvisioning(request_id=REQUEST, account_id=NEW)).then(PROVISIONED)


@pytest.mark.parametrize("other", [{"email": "x@example.org"}, {"account_id": ADA}, {"plan": "send_only"}])
def test_refuses_a_request_whose_id_has_other_content(other: dict[str, Any]) -> None:
    scene = provisioned()
    rows, command = scene.rows(), provision(**other)
    scene.when(command).then(refused("id_conflict", command.account_id)).leaves(*rows)


def test_a_batch_gives_each_account_a_number_of_its_own() -> None:
    numbers = [FREE, FREE_TOO]
    commands = [
        provision(request_id=id_of(f"r{n}"), account_id=id_of(f"a{n}"), email=f"a{n}@example.org") for n in range(3)
    ]
    scene = given(PROVISIONING, FAX, *numbers).when(*commands)
    given_out = [effect.fax_number for effect in scene.effects if isinstance(effect, PersonRecorded)]
    assert given_out == ["+331", "+332"]
    assert isinstance(scene.effects[-1], AccountRefused)
    assert scene.effects[-1].code == "no_fax_number"


def test_of_two_accounts_for_one_address_in_one_batch_one_is_created() -> None:
    scene = given(PROVISIONING, FAX, FREE, FREE_TOO)
    scene.when(provision(), provision(request_id=id_of("r2"), account_id=id_of("a2")))
    assert scene.effects[:2] == [PROVISIONED, NEW_RECORDED]
    assert isinstance(scene.effects[2], AccountRefused)
    assert (len(scene.effects), scene.effects[2].code) == (3, "email_taken")


# --- calling off ---

CANCEL = CancelProvisioning(request_id=REQUEST, account_id=NEW)


def test_cancellation_that_comes_first_burns_the_request() -> None:
    burned = Request(REQUEST, NEW, "cancelled", b"", NOW)
    rows = [FAX, FREE]
    scene = given(PROVISIONING, *rows).when(CANCEL).then(refused("cancelled")).leaves(*rows, burned)
    scene.when(provision()).then(refused("cancelled")).leaves(*rows, burned)


def test_cancellation_and_late_request_in_one_batch_create_nothing() -> None:
    scene = given(PROVISIONING, FAX, FREE).when(CANCEL, provision())
    scene.then(refused("cancelled"), refused("cancelled"))
    scene.leaves(FAX, FREE, Request(REQUEST, NEW, "cancelled", b"", NOW))


def test_cancellation_that_comes_late_hears_that_the_account_won() -> None:
    scene = provisioned()
    rows = scene.rows()
    scene.when(CANCEL).then(PROVISIONED).leaves(*rows)


def test_cancellation_of_a_refused_request_hears_why_it_was_refused() -> None:
    scene = given(PROVISIONING).when(provision())
    rows = scene.rows()
    scene.when(CANCEL).then(refused("unknown_plan")).leaves(*rows)


def test_cancellation_of_another_accounts_request_changes_nothing() -> None:
    scene = provisioned()
    rows = scene.rows()
    foreign = CancelProvisioning(request_id=REQUEST, account_id=ADA)
    scene.when(foreign).then(refused("id_conflict", ADA, CancelProvisioning.TYPE)).leaves(*rows)
