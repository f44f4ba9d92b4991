"""What groups learns of everybody: who they are, what their account says; and what it forgets."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import GroupRenamed, InviteByEmail, RenameGroup
from popfax_contracts.ledger import BalanceChanged
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import SendInvitation
from popfax_contracts.provisioning import (
    AccountClosed,
    AccountExpired,
    AccountExtended,
    AccountProvisioned,
    PersonErased,
    PersonRecorded,
    SubscriberRegistered,
)
from services.chassis.messages import Effect
from services.groups.consumers import GROUPS
from services.groups.domain import AccountState, Group, HistoryEntry, Subscriber
from tests.unit.given import NOW, Scene, given, id_of, incoming

ADA, BOB = id_of("ada"), id_of("bob")
GROUP = group_of(ADA)
YEAR = NOW + timedelta(days=365)


def person(who: UUID, email: str, first: str = "Ada", last: str = "L.") -> PersonRecorded:
    return PersonRecorded(
        subscriber_id=who,
        email=email,
        first_name=first,
        last_name=last,
        language=Language.EN,
        time_zone="America/Martinique",
    )


def subscriber(
    who: UUID = ADA,
    email: str | None = None,
    state: AccountState = AccountState.ACTIVE,
    expires_at: datetime | None = None,
    units: int = 0,
    version: int = 0,
    last: str = "L.",
) -> Subscriber:
    first, family, language = ("Ada", last, "en") if email else (None, None, None)
    zone = "America/Martinique" if email else None
    return Subscriber(who, email, first, family, language, state, expires_at, units, version, time_zone=zone)


def one_by_one(*messages: Message) -> Scene:
    scene = given(GROUPS)
    for n, message in enumerate(messages):
        scene.when(incoming(message, id_=id_of(f"{n}")))
    return scene


def in_one_batch(*messages: Message) -> Scene:
    return given(GROUPS).when(*(incoming(message, id_=id_of(f"{n}")) for n, message in enumerate(messages)))


BATCHING = pytest.mark.parametrize("come", [one_by_one, in_one_batch])

HERE = person(ADA, "ada@example.org")
GONE = PersonErased(subscriber_id=ADA)
CLOSE = AccountClosed(account_id=ADA)


# --- who they are ---


@BATCHING
def test_learns_who_somebody_is_and_their_group_is_called_what_they_are(come: Any) -> None:
    rows = [
        subscriber(email="ada@example.org"),
        Group(GROUP, ADA, "Ada L.", False, None),
    ]
    come(HERE).then().leaves(*rows)
    come(HERE, HERE).then().leaves(*rows)


@BATCHING
def test_the_groups_name_follows_its_owners_until_it_is_renamed(come: Any) -> None:
    married = person(ADA, "ada@example.org", last="B.")
    assert come(HERE, married).only(Group) == Group(GROUP, ADA, "Ada B.", False, None)
    rename = incoming(RenameGroup(group_id=GROUP, name="The branch"), ADA)
    scene = given(GROUPS).when(HERE, rename).then(GroupRenamed(group_id=GROUP, owner_id=ADA)).when(married)
    assert scene.only(Group) == Group(GROUP, ADA, "The branch", True, None)
    assert scene.only(Subscriber).last_name == "B."
    assert given(GROUPS).when(rename).when(married).only(Group).name == "The branch"
    assert given(GROUPS).when(HERE, rename, married).only(Group).name == "The branch"


@BATCHING
def test_another_address_frees_the_one_before(come: Any) -> None:
    scene = come(HERE, person(ADA, "new@example.org"))
    assert addresses(scene) == {ADA: "new@example.org"}
    assert addresses(come(HERE, person(ADA, "new@example.org"), HERE)) == {ADA: "ada@example.org"}


def addresses(scene: Scene) -> dict[UUID, str]:
    return {row.id: row.email for row in scene.rows() if isinstance(row, Subscriber) and row.email is not None}


GIVES, TAKES = person(ADA, "new@example.org"), person(BOB, "ada@example.org")


@BATCHING
@pytest.mark.parametrize("order", [[GIVES, TAKES], [TAKES, GIVES]])
def test_an_address_that_changes_hands_ends_up_with_who_took_it(come: Any, order: list[Message]) -> None:
    assert addresses(come(HERE, *order)) == {ADA: "new@example.org", BOB: "ada@example.org"}


@BATCHING
def test_a_late_record_of_who_had_an_address_does_not_lose_it_for_who_has_it(come: Any) -> None:
    """Ada had it and went on, Bob took it; Bob's record is read first, as it is on another partition."""
    had, has, taken = person(ADA, "x@example.org"), person(ADA, "y@example.org"), person(BOB, "x@example.org")
    assert addresses(come(taken, had, has)) == {ADA: "y@example.org", BOB: "x@example.org"}


@BATCHING
@pytest.mark.parametrize("last_first", [True, False])
def test_two_who_swap_their_addresses_have_each_others(come: Any, last_first: bool) -> None:
    """By way of a third address: nobody can have one that is taken."""
    both = [person(ADA, "a@example.org"), person(BOB, "b@example.org")]
    adas = [person(ADA, "between@example.org"), person(ADA, "b@example.org")]
    bobs = [person(BOB, "a@example.org")]
    orders = [[*adas, *bobs], [*bobs, *adas]] if last_first else [[adas[0], *bobs, adas[1]]]
    for order in orders:
        assert addresses(come(*both, *order)) == {ADA: "b@example.org", BOB: "a@example.org"}


# --- and whom it forgets ---


@BATCHING
def test_erasure_removes_name_address_and_the_groups_name(come: Any) -> None:
    come(HERE, GONE).then().leaves(subscriber(), Group(GROUP, ADA, "", False, None))


def test_erasure_removes_a_name_that_the_owner_gave_the_group_and_what_was_invited_still_can_be() -> None:
    rename = incoming(RenameGroup(group_id=GROUP, name="Ada's"), ADA)
    scene = given(GROUPS).when(HERE, person(BOB, "bob@example.org"), rename).when(GONE)
    assert "Ada" not in repr([row for row in scene.rows() if isinstance(row, Group) and row.id == GROUP])
    scene.when(InviteByEmail(group_id=GROUP, email="bob@example.org"), actor=ADA)
    (mail,) = [effect for effect in scene.effects if isinstance(effect, SendInvitation)]
    assert mail.group_name is None


def test_erasure_of_somebody_unknown_changes_nothing_that_tells() -> None:
    given(GROUPS).when(GONE).then().leaves(subscriber())


@BATCHING
def test_erasure_leaves_an_address_alone_that_somebody_else_has_taken_meanwhile(come: Any) -> None:
    assert addresses(come(HERE, TAKES, GONE)) == {BOB: "ada@example.org"}
    assert addresses(come(HERE, GONE, TAKES)) == {BOB: "ada@example.org"}


ORDERS = [[GONE, CLOSE], [CLOSE, GONE], [CLOSE], [CLOSE, GONE, GONE]]


@BATCHING
@pytest.mark.parametrize("order", ORDERS)
def test_closing_forgets_too_and_the_tombstone_may_come_before_or_after(come: Any, order: list[Message]) -> None:
    come(HERE, *order).leaves(subscriber(state=AccountState.CLOSED), Group(GROUP, ADA, "", False, NOW))


@BATCHING
def test_who_is_closed_is_not_learned_again_by_what_comes_late(come: Any) -> None:
    rows = [subscriber(state=AccountState.CLOSED), Group(GROUP, ADA, "", False, NOW)]
    come(CLOSE, HERE).then().leaves(*rows)
    come(CLOSE, HERE, GONE).then().leaves(*rows)
    assert addresses(come(CLOSE, TAKES, HERE)) == {BOB: "ada@example.org"}


def test_a_name_that_is_given_between_the_tombstone_and_the_closing_is_forgotten() -> None:
    rename = incoming(RenameGroup(group_id=GROUP, name="Ada's"), ADA)
    scene = given(GROUPS).when(HERE).when(GONE).when(rename).when(CLOSE)
    assert scene.only(Group) == Group(GROUP, ADA, "", False, NOW)
    assert "Ada" not in repr([scene.only(Subscriber), scene.only(HistoryEntry)])


# --- what is on their account ---


def balance(version: int, units: int) -> BalanceChanged:
    return BalanceChanged(account_id=ADA, version=version, balance_units=units + 1, available_units=units)


@BATCHING
def test_shows_what_is_available_as_the_newest_version_says(come: Any) -> None:
    come(balance(3, 30)).then().leaves(subscriber(units=30, version=3))  # somebody unknown
    come(balance(3, 30), balance(4, 0)).leaves(subscriber(units=0, version=4))
    come(balance(4, 0), balance(3, 30)).leaves(subscriber(units=0, version=4))
    come(balance(3, 30), balance(3, 30)).leaves(subscriber(units=30, version=3))


@BATCHING
def test_a_balance_and_a_person_do_not_touch_each_other(come: Any) -> None:
    for order in ([HERE, balance(2, 20)], [balance(2, 20), HERE]):
        found = subscriber(email="ada@example.org", units=20, version=2)
        assert come(*order).only(Subscriber) == found


# --- until when it works ---

REGISTERED = SubscriberRegistered(subscriber_id=ADA, expires_at=NOW)
PROVISIONED = AccountProvisioned(request_id=BOB, account_id=ADA, plan="send_only", expires_at=NOW)
EXTENDED = AccountExtended(request_id=BOB, account_id=ADA, expires_at=YEAR)
EXPIRED = AccountExpired(account_id=ADA, expires_at=NOW)
ACTIVE, ENDED, CLOSED = AccountState.ACTIVE, AccountState.EXPIRED, AccountState.CLOSED

STATES: list[tuple[list[Message], AccountState, datetime | None]] = [
    ([REGISTERED], ACTIVE, NOW),
    ([PROVISIONED], ACTIVE, NOW),
    ([PROVISIONED, EXPIRED], ENDED, NOW),
    ([EXPIRED], ENDED, NOW),
    ([PROVISIONED, EXTENDED], ACTIVE, YEAR),
    ([PROVISIONED, EXPIRED, EXTENDED], ACTIVE, YEAR),
    # An answer that is given again says what was true then.
    ([REGISTERED, EXPIRED, REGISTERED], ENDED, NOW),
    ([PROVISIONED, EXPIRED, PROVISIONED], ENDED, NOW),
    ([PROVISIONED, EXTENDED, PROVISIONED], ACTIVE, YEAR),
    ([EXTENDED, AccountExpired(account_id=ADA, expires_at=YEAR), EXTENDED], ENDED, YEAR),
    ([PROVISIONED, CLOSE], CLOSED, NOW),
    ([EXPIRED, CLOSE], CLOSED, NOW),
    # Closed is final.
    ([CLOSE, REGISTERED], CLOSED, None),
    ([CLOSE, PROVISIONED], CLOSED, None),
    ([CLOSE, EXTENDED], CLOSED, None),
    ([CLOSE, EXPIRED], CLOSED, None),
    ([CLOSE, balance(1, 0)], CLOSED, None),
]


@BATCHING
@pytest.mark.parametrize(("messages", "state", "expires_at"), STATES)
def test_knows_what_an_account_can_do(
    come: Any, messages: list[Message], state: AccountState, expires_at: datetime | None
) -> None:
    scene = come(*messages)
    effects: list[Effect] = scene.effects
    found = scene.only(Subscriber)
    assert (found.state, found.expires_at, effects) == (state, expires_at, [])


def test_a_balance_that_is_told_again_changes_nothing() -> None:
    known = subscriber(units=7, version=2)
    given(GROUPS, known).when(balance(2, 9)).then().leaves(known)
    given(GROUPS, known).when(balance(3, 9)).then().leaves(replace(known, available_units=9, balance_version=3))


def test_a_registration_that_does_not_say_until_when_tells_nothing() -> None:
    given(GROUPS).when(SubscriberRegistered(subscriber_id=ADA)).then().leaves()


def test_what_an_expiry_does_not_tell_is_kept() -> None:
    known = subscriber(email="ada@example.org", units=7, version=2)
    scene = given(GROUPS, known).when(EXPIRED)
    assert scene.only(Subscriber) == replace(known, state=ENDED, expires_at=NOW)
