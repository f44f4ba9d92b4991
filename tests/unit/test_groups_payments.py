"""What an owner pays for a member: who may, and every turn that the saga can take."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from popfax_contracts.groups import DetachMembers, MemberPaidFor, MemberPaymentRefused, MemberRef, PayForMember
from popfax_contracts.ledger import (
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import (
    AccountExpired,
    AccountExpiring,
    AccountExtended,
    AccountProvisioned,
    CancelGrant,
    GrantPurchase,
    GrantRefused,
    OptionPublished,
    OptionsPackAdded,
    SubscriberRegistered,
)
from services.chassis.sagas import CancelSaga, SagaDeadline, SagaRow, Status
from services.groups.consumers import GROUPS
from services.groups.domain import (
    AccountState,
    Group,
    HistoryEntry,
    Kind,
    Membership,
    Option,
    Subscriber,
    history_of_membership,
    membership_of,
)
from services.groups.store import payment_of
from services.groups.tables import SAGAS
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB = id_of("ada"), id_of("bob")
GROUP = group_of(ADA)
MEMBER = Membership(membership_of(GROUP, BOB), GROUP, ADA, BOB, True, 2, None, NOW, None)
JOINED = HistoryEntry(
    id=history_of_membership(MEMBER.id, 2),
    group_id=GROUP,
    kind=Kind.MEMBERSHIP,
    at=NOW,
    actor_id=BOB,
    member_id=BOB,
    reference_id=MEMBER.id,
    units=None,
    outcome="active",
    code="invitation_accepted",
    ended_at=None,
)
OLD_END, NEW_END = NOW + timedelta(7), NOW + timedelta(372)


def pay(**changes: Any) -> PayForMember:
    fields = {
        "group_id": GROUP,
        "member_id": BOB,
        "epoch": 2,
        "action": "extension",
        "price_units": 20,
        "expires_at": OLD_END,
    }
    return PayForMember(**{**fields, **changes})


EXTEND = pay()
ASKED = incoming(EXTEND, ADA)
SAGA = payment_of(ASKED)

RESERVE = ReserveUnits(hold_id=SAGA, account_id=ADA, amount_units=20)
RELEASE = ReleaseHold(hold_id=SAGA, account_id=ADA)
GRANT = GrantPurchase(
    request_id=SAGA, account_id=BOB, action="extension", payer_id=ADA, price_units=20, expires_at=OLD_END
)
CANCEL_GRANT = CancelGrant(request_id=SAGA, account_id=BOB, action="extension")
CAPTURE = CaptureHold(hold_id=SAGA, account_id=ADA)

RESERVED = UnitsReserved(hold_id=SAGA, account_id=ADA, amount_units=20)
EXTENDED = AccountExtended(request_id=SAGA, account_id=BOB, expires_at=NEW_END, price_units=20, paid_by=ADA)
CAPTURED = HoldCaptured(hold_id=SAGA, account_id=ADA, amount_units=20, version=3)
RELEASED = HoldReleased(hold_id=SAGA, account_id=ADA, amount_units=20, version=3)
CHANGED = GrantRefused(
    request_id=SAGA, account_id=BOB, action="extension", code="end_changed", command_type=GrantPurchase.TYPE
)
PAID = MemberPaidFor(
    group_id=GROUP,
    owner_id=ADA,
    member_id=BOB,
    payment_id=SAGA,
    action="extension",
    price_units=20,
    expires_at=NEW_END,
)


def not_reserved(code: str) -> UnitsRefused:
    return UnitsRefused(hold_id=SAGA, account_id=ADA, code=code, command_type=ReserveUnits.TYPE)


def refused(code: str) -> MemberPaymentRefused:
    return MemberPaymentRefused(group_id=GROUP, member_id=BOB, code=code, command_type=PayForMember.TYPE)


def line(outcome: str, code: str | None = None, kind: Kind = Kind.EXTENSION) -> HistoryEntry:
    ended_at = None if outcome == "pending" else NOW
    return HistoryEntry(SAGA, GROUP, kind, NOW, ADA, BOB, SAGA, 20, outcome, code, ended_at)


def account(**changes: Any) -> Subscriber:
    return replace(Subscriber(BOB, None, None, None, None, AccountState.ACTIVE, None, 0, 0), **changes)


def after(*messages: Message) -> Scene:
    """The saga is open, and these messages came, each in a batch of its own."""
    scene = given(GROUPS, MEMBER).when(ASKED)
    for message in messages:
        scene.when(incoming(message, id_=id_of(f"{message!r}")))
    return scene


def status(scene: Scene) -> Status:
    return Status(scene.only(SagaRow).status)


# --- opening ---


def test_holds_the_price_on_the_owners_account_before_anybody_is_asked() -> None:
    scene = after().then(RESERVE)
    assert scene.only(HistoryEntry) == line("pending")
    saga = scene.only(SagaRow)
    assert saga.status is Status.RUNNING
    assert saga.data == {
        "group_id": str(GROUP),
        "member_id": str(BOB),
        "owner_id": str(ADA),
        "action": "extension",
        "price_units": 20,
        "shown_end": "2031-01-08T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("code", "command", "actor", "rows"),
    [
        ("not_owner", EXTEND, BOB, [MEMBER]),
        ("not_owner", EXTEND, None, [MEMBER]),
        ("group_closed", EXTEND, ADA, [MEMBER, Group(GROUP, ADA, "", False, NOW)]),
        ("not_member", EXTEND, ADA, []),
        ("not_member", EXTEND, ADA, [replace(MEMBER, active=False, ended_at=NOW)]),
        ("not_member", pay(epoch=1), ADA, [MEMBER]),
    ],
)
def test_refuses_before_anything_is_held_with(code: str, command: PayForMember, actor: Any, rows: list[Any]) -> None:
    given(GROUPS, *rows).when(command, actor=actor).then(refused(code)).leaves(*rows)


def test_a_command_that_names_no_epoch_means_the_membership_of_today() -> None:
    scene = given(GROUPS, MEMBER).when(pay(epoch=None), actor=ADA)
    assert [type(effect) for effect in scene.effects] == [ReserveUnits]


def test_a_command_that_comes_again_after_its_saga_was_removed_is_not_carried_out_again() -> None:
    given(GROUPS, MEMBER, line("done")).when(ASKED).then().leaves(MEMBER, line("done"))


# --- to the end ---


def test_asks_provisioning_once_the_units_are_held() -> None:
    after(RESERVED).then(GRANT)


def test_each_step_is_stored_under_its_name() -> None:
    """A later version must find it."""
    steps = [after(*told).only(SagaRow).step for told in ([], [RESERVED], [RESERVED, EXTENDED])]
    assert steps == ["reserve units", "grant purchase", "capture hold"]


def test_calls_off_what_has_not_been_granted_in_five_minutes() -> None:
    saga = after(RESERVED).only(SagaRow)
    due = [record for alarm in GROUPS.alarms if alarm.mapped is SAGAS and (record := alarm.record(saga)) is not None]
    assert [record.due_at for record in due] == [NOW + timedelta(minutes=5)]


def test_pays_once_it_is_granted_and_shows_the_new_end() -> None:
    scene = after(RESERVED, EXTENDED).then(CAPTURE)
    assert scene.only(Subscriber) == account(expires_at=NEW_END)


def test_tells_what_was_paid_with_the_end_that_this_very_extension_gave() -> None:
    """The member may extend their account themselves before the payment is captured."""
    own = AccountExtended(request_id=id_of("own"), account_id=BOB, expires_at=NEW_END + timedelta(365))
    scene = after(RESERVED, EXTENDED, own, CAPTURED).then(PAID)
    assert scene.only(HistoryEntry) == line("done")
    assert status(scene) is Status.COMPLETED


def test_pays_for_the_options_pack() -> None:
    asked = incoming(pay(action="options_pack", expires_at=None), ADA)
    id_ = payment_of(asked)
    scene = given(GROUPS, MEMBER).when(asked)
    scene.when(UnitsReserved(hold_id=id_, account_id=ADA, amount_units=20))
    scene.then(GrantPurchase(request_id=id_, account_id=BOB, action="options_pack", payer_id=ADA, price_units=20))
    scene.when(OptionsPackAdded(request_id=id_, account_id=BOB, price_units=20, paid_by=ADA))
    scene.then(CaptureHold(hold_id=id_, account_id=ADA))
    assert scene.only(Subscriber) == account(options_pack=True)
    scene.when(HoldCaptured(hold_id=id_, account_id=ADA, amount_units=20, version=3))
    scene.then(PAID.model_copy(update={"payment_id": id_, "action": "options_pack", "expires_at": None}))


def test_a_member_who_is_removed_meanwhile_gets_what_was_paid_for() -> None:
    """Membership is checked once, when the owner asks: the units may be held by now, and the account extended."""
    detach = DetachMembers(group_id=GROUP, members=(MemberRef(member_id=BOB),))
    scene = given(GROUPS, MEMBER, JOINED).when(ASKED).when(detach, actor=ADA)
    scene.when(RESERVED).then(GRANT).when(EXTENDED).then(CAPTURE).when(CAPTURED).then(PAID)


# --- and back ---


@pytest.mark.parametrize("code", ["units_short", "account_expired", "account_closed"])
def test_an_owner_who_cannot_pay_is_refused_and_the_members_account_is_not_even_asked(code: str) -> None:
    scene = after(not_reserved(code)).then(refused(code))
    assert scene.only(HistoryEntry) == line("refused", code)
    assert status(scene) is Status.REFUSED


@pytest.mark.parametrize("code", [code.value for code in GrantPurchase.CODES if code != "cancelled"])
def test_what_provisioning_refuses_is_not_paid(code: str) -> None:
    scene = after(RESERVED, CHANGED.model_copy(update={"code": code})).then(RELEASE)
    scene.when(RELEASED).then(refused(code))
    assert scene.only(HistoryEntry) == line("refused", code)


def test_a_deadline_asks_which_came_first() -> None:
    after(RESERVED, SagaDeadline(saga_id=SAGA)).then(CANCEL_GRANT)


def test_a_grant_that_came_before_the_deadline_is_paid() -> None:
    after(RESERVED, SagaDeadline(saga_id=SAGA), EXTENDED).then(CAPTURE).when(CAPTURED).then(PAID)


def test_a_grant_that_was_called_off_is_not_paid() -> None:
    cancelled = CHANGED.model_copy(update={"code": "cancelled", "command_type": CancelGrant.TYPE})
    scene = after(RESERVED, SagaDeadline(saga_id=SAGA), cancelled).then(RELEASE)
    scene.when(RELEASED).then(refused("timed_out"))


def test_an_operator_calls_off_what_is_held_and_not_granted() -> None:
    after(CancelSaga(saga_id=SAGA)).then(RELEASE).when(RELEASED).then(refused("cancelled"))


def test_an_extension_of_the_members_own_is_no_answer_to_the_saga() -> None:
    own = AccountExtended(request_id=id_of("own"), account_id=BOB, expires_at=NEW_END)
    after(RESERVED, own).then()


# --- what groups knows of accounts and prices ---


def test_knows_what_an_option_costs() -> None:
    scene = given(GROUPS).when(OptionPublished(option="options_pack", price_units=30))
    scene.leaves(Option("options_pack", 30))
    scene.when(OptionPublished(option="options_pack", price_units=31, on_sale=False))
    scene.leaves(Option("options_pack", 31, False))


@pytest.mark.parametrize(
    "told",
    [
        SubscriberRegistered(subscriber_id=BOB, expires_at=OLD_END, plan="send_only"),
        AccountProvisioned(request_id=id_of("request"), account_id=BOB, plan="send_only", expires_at=OLD_END),
    ],
)
def test_knows_an_accounts_plan_and_end_from_its_beginning(told: Message) -> None:
    scene = given(GROUPS).when(told).leaves(account(plan="send_only", expires_at=OLD_END))
    scene.when(AccountExtended(request_id=id_of("own"), account_id=BOB, expires_at=NEW_END))
    scene.leaves(account(plan="send_only", expires_at=NEW_END))


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (AccountExpiring(account_id=BOB, days=30, expires_at=OLD_END, plan="send_only"), AccountState.ACTIVE),
        (AccountExpired(account_id=BOB, expires_at=OLD_END, plan="send_only"), AccountState.EXPIRED),
    ],
)
def test_learns_the_plan_of_an_account_that_is_older_than_this_knowledge(told: Message, state: AccountState) -> None:
    old = account(expires_at=OLD_END)
    given(GROUPS, old).when(told).leaves(replace(old, plan="send_only", state=state))


def test_an_expired_account_is_active_again_once_it_is_extended_and_stays_so() -> None:
    """An earlier extension's answer, told again, takes nothing back."""
    expired = account(plan="send_only", state=AccountState.EXPIRED, expires_at=OLD_END)
    new = AccountExtended(request_id=id_of("own"), account_id=BOB, expires_at=NEW_END)
    scene = given(GROUPS, expired).when(new).leaves(account(plan="send_only", expires_at=NEW_END))
    scene.when(AccountExtended(request_id=id_of("old"), account_id=BOB, expires_at=OLD_END))
    scene.leaves(account(plan="send_only", expires_at=NEW_END))
