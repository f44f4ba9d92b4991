"""What a holder does with their account at no price: forwarding stopped, another address, and the end of it all."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.provisioning import (
    AccountChangeRefused,
    AccountClosed,
    CallForwardingDisabled,
    ChangeEmail,
    ChangeTimeZone,
    CloseAccount,
    DisableCallForwarding,
    EmailChanged,
    PersonErased,
    TimeZoneChanged,
)
from services.chassis.messages import SetTimer
from services.provisioning.consumers import PROVISIONING
from services.provisioning.domain import AccountState, Address, FaxNumber, NumberState, Subscriber
from services.provisioning.timers import NumberRested, rest_of
from tests.unit.given import NOW, given, id_of
from tests.unit.test_provisioning import (
    ADA,
    CREATED,
    FAX,
    FREE,
    FREE_TOO,
    GIVEN,
    NEW,
    OWNER,
    OWNERS_ADDRESS,
    PROVISIONED,
    not_registered,
    person,
    provision,
    provisioned,
    refused,
    register,
)

Changing = DisableCallForwarding | ChangeEmail | ChangeTimeZone | CloseAccount

DISABLE = DisableCallForwarding(account_id=ADA)
DISABLED = CallForwardingDisabled(account_id=ADA)
CHANGE = ChangeEmail(account_id=ADA, email="Lovelace@Example.org")
CHANGED = EmailChanged(account_id=ADA)
MOVE = ChangeTimeZone(account_id=ADA, time_zone="America/Martinique")
MOVED = TimeZoneChanged(account_id=ADA)
CLOSE = CloseAccount(account_id=ADA)
CLOSED = AccountClosed(account_id=ADA)
ERASED = PersonErased(subscriber_id=ADA)

RENAMED = replace(OWNER, email="lovelace@example.org")
RENAMED_RECORDED = person(ADA, "lovelace@example.org", "Ada", "L.", Language.EN, None)
NEW_ADDRESS = Address("lovelace@example.org", ADA)
TAKEN = Address("lovelace@example.org", NEW)
FORWARDED = replace(OWNER, forward_to="+33199000001")
GONE = OWNER.closed(NOW)


def not_changed(command: Changing, code: str) -> AccountChangeRefused:
    return AccountChangeRefused(account_id=command.account_id, code=code, command_type=command.TYPE)


# Each has what the codes after it need as well: the first that is found is told.
REFUSALS: list[tuple[Changing, str, list[Any], UUID | None]] = [
    (DISABLE, "unknown_account", [], NEW),
    (DISABLE, "not_holder", [GONE], NEW),
    (DISABLE, "not_holder", [FORWARDED], None),
    (DISABLE, "account_closed", [GONE], ADA),
    (CHANGE, "unknown_account", [TAKEN], NEW),
    (CHANGE, "not_holder", [GONE, TAKEN], NEW),
    (CHANGE, "not_holder", [OWNER, OWNERS_ADDRESS], None),
    (CHANGE, "account_closed", [GONE, TAKEN], ADA),
    (CHANGE, "email_taken", [OWNER, OWNERS_ADDRESS, TAKEN], ADA),
    (MOVE, "unknown_account", [], NEW),
    (MOVE, "not_holder", [GONE], NEW),
    (MOVE, "account_closed", [GONE], ADA),
    (CLOSE, "unknown_account", [], NEW),
    (CLOSE, "not_holder", [GONE], NEW),
    (CLOSE, "not_holder", [OWNER, OWNERS_ADDRESS], None),
]


@pytest.mark.parametrize(
    ("command", "code", "rows", "actor"), REFUSALS, ids=[f"{type(c).__name__} {code}" for c, code, _, _ in REFUSALS]
)
def test_refuses_in_the_documented_order(command: Changing, code: str, rows: list[Any], actor: UUID | None) -> None:
    given(PROVISIONING, *rows).when(command, actor=actor).then(not_changed(command, code)).leaves(*rows)


# --- call forwarding ---


@pytest.mark.parametrize("state", [AccountState.ACTIVE, AccountState.EXPIRED])
def test_stops_forwarding_however_often_it_is_asked(state: AccountState) -> None:
    before, after = replace(FORWARDED, state=state), replace(OWNER, state=state)
    scene = given(PROVISIONING, before).when(DISABLE, actor=ADA).then(DISABLED).leaves(after)
    scene.when(DISABLE, actor=ADA).then(DISABLED).leaves(after)


# --- another time zone ---


def test_moves_a_holder_to_another_time_zone_and_tells_the_directory() -> None:
    moved = replace(OWNER, time_zone="America/Martinique")
    recorded = person(ADA, "ada@example.org", "Ada", "L.", Language.EN, None)
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(MOVE, actor=ADA)
    scene.then(MOVED, recorded.model_copy(update={"time_zone": "America/Martinique"})).leaves(moved, OWNERS_ADDRESS)


def test_forgets_the_time_zone_of_a_closed_account() -> None:
    assert replace(OWNER, time_zone="America/Martinique").closed(NOW) == GONE


# --- another address ---


def test_gives_an_account_another_address_and_frees_the_one_that_it_had() -> None:
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CHANGE, actor=ADA)
    scene.then(CHANGED, RENAMED_RECORDED).leaves(RENAMED, NEW_ADDRESS)


def test_changes_to_the_address_that_it_has_already() -> None:
    rows = [RENAMED, NEW_ADDRESS]
    given(PROVISIONING, *rows).when(CHANGE, actor=ADA).then(CHANGED, RENAMED_RECORDED).leaves(*rows)


def test_somebody_else_can_have_the_freed_address_in_the_same_batch() -> None:
    other = register(subscriber_id=NEW)
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CHANGE, other, actor=ADA)
    assert Address("ada@example.org", NEW) in scene.rows()
    assert NEW_ADDRESS in scene.rows()


def test_of_two_who_want_an_address_the_first_gets_it() -> None:
    other = register(subscriber_id=NEW, email="lovelace@example.org")
    rows = [OWNER, OWNERS_ADDRESS]
    change_first = given(PROVISIONING, *rows).when(CHANGE, other, actor=ADA)
    change_first.then(CHANGED, RENAMED_RECORDED, not_registered("email_taken", NEW)).leaves(RENAMED, NEW_ADDRESS)
    other_first = given(PROVISIONING, *rows).when(other, CHANGE, actor=ADA)
    assert other_first.effects[-1] == not_changed(CHANGE, "email_taken")
    assert {OWNER, OWNERS_ADDRESS, TAKEN} < set(other_first.rows())


def test_there_and_back_again() -> None:
    back = ChangeEmail(account_id=ADA, email="ada@example.org")
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CHANGE, back, actor=ADA)
    scene.leaves(OWNER, OWNERS_ADDRESS)


# --- closing ---


def closed(account: Subscriber) -> Subscriber:
    """An account of which nobody knows any more whose it was."""
    return Subscriber(
        account.id,
        None,
        None,
        None,
        None,
        account.plan,
        None,
        account.created_at,
        account.expires_at,
        AccountState.CLOSED,
        account.options_pack,
        None,
        account.reminded_days,
        NOW,
        None,
    )


def test_closes_an_account_and_forgets_whose_it_was() -> None:
    account = replace(FORWARDED, options_pack=True)
    scene = given(PROVISIONING, account, OWNERS_ADDRESS).when(CLOSE, actor=ADA)
    scene.then(CLOSED, ERASED).leaves(closed(account))


def test_gives_the_same_answer_when_it_is_closed_already() -> None:
    given(PROVISIONING, GONE).when(CLOSE, actor=ADA).then(CLOSED).leaves(GONE)


def test_closes_an_expired_account() -> None:
    account = replace(OWNER, state=AccountState.EXPIRED)
    given(PROVISIONING, account, OWNERS_ADDRESS).when(CLOSE, actor=ADA).leaves(closed(account))


def test_lets_the_fax_number_rest_for_ninety_days() -> None:
    scene = provisioned()
    rows = [row for row in scene.rows() if not isinstance(row, Subscriber | Address | FaxNumber)]
    scene.when(CloseAccount(account_id=NEW), actor=NEW)
    scene.then(
        AccountClosed(account_id=NEW),
        PersonErased(subscriber_id=NEW),
        SetTimer(rest_of("+331"), NOW + timedelta(90), NumberRested(number="+331")),
    )
    scene.leaves(*rows, closed(CREATED), FaxNumber("+331", NumberState.RESTING, None), FREE_TOO)


def test_an_address_is_free_at_once_when_its_account_is_closed() -> None:
    other = register(subscriber_id=NEW)
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CLOSE, other, actor=ADA)
    assert Address("ada@example.org", NEW) in scene.rows()


def test_an_account_is_created_and_closed_in_one_batch() -> None:
    scene = given(PROVISIONING, FAX, FREE).when(provision(), CloseAccount(account_id=NEW), actor=NEW)
    assert closed(CREATED) in scene.rows()
    assert FaxNumber("+331", NumberState.RESTING, None) in scene.rows()
    assert not [row for row in scene.rows() if isinstance(row, Address)]


def test_address_changed_and_closed_in_one_batch() -> None:
    given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CHANGE, CLOSE, actor=ADA).leaves(closed(OWNER))
    scene = given(PROVISIONING, OWNER, OWNERS_ADDRESS).when(CLOSE, CHANGE, actor=ADA)
    assert scene.effects[-1] == not_changed(CHANGE, "account_closed")
    scene.leaves(closed(OWNER))


def test_the_creation_of_a_closed_account_gets_the_same_answer_and_records_nobody() -> None:
    scene = provisioned().when(CloseAccount(account_id=NEW), actor=NEW)
    rows = scene.rows()
    scene.when(provision()).then(PROVISIONED).leaves(*rows)


def test_the_creation_of_a_closed_account_under_another_request_is_refused() -> None:
    scene = provisioned().when(CloseAccount(account_id=NEW), actor=NEW)
    answer = refused("id_conflict").model_copy(update={"request_id": id_of("again")})
    scene.when(provision(request_id=id_of("again"))).then(answer)


# --- numbers ---


def test_gives_a_number_out_again_when_it_has_rested() -> None:
    resting = FaxNumber("+331", NumberState.RESTING, None)
    scene = given(PROVISIONING, FAX, resting).when(provision()).then(refused("no_fax_number"))
    scene.when(NumberRested(number="+331")).then()
    assert scene.only(FaxNumber) == FREE
    scene.when(provision(request_id=id_of("again")))
    assert scene.only(FaxNumber) == FaxNumber("+331", NumberState.ASSIGNED, NEW)


@pytest.mark.parametrize("number", [FREE, GIVEN])
def test_leaves_a_number_alone_that_does_not_rest(number: FaxNumber) -> None:
    given(PROVISIONING, number).when(NumberRested(number=number.number)).then().leaves(number)
