"""What an owner calls few units, and the daily look that tells them which members have become low."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from popfax_contracts.groups import LowBalanceRefused, LowBalanceSet, SetLowBalance
from popfax_contracts.message import group_of
from popfax_contracts.notifications import MAX_NAMED, SendMembersLow
from services.chassis.messages import Incoming, decode
from services.groups.consumers import GROUPS
from services.groups.domain import (
    LOOKED_WITHIN,
    AccountState,
    Group,
    LowBalance,
    Membership,
    Subscriber,
    membership_of,
    next_look,
)
from services.groups.timers import LOOKS, LowBalanceDue
from tests.unit.given import NOW, Scene, given, id_of

ADA, BEA, CAT = id_of("ada"), id_of("bea"), id_of("cat")
GROUP = group_of(ADA)
PARIS = ZoneInfo("Europe/Paris")
LOOK = next_look(GROUP, NOW, PARIS)
DAY = timedelta(days=1)
TODAY = LOOK.date()
DUE = LowBalanceDue(group_id=GROUP, owner_id=ADA)
SETTING = LowBalance(GROUP, ADA, 10, LOOK, None, 0, ())


def subscriber(id_: UUID, units: int) -> Subscriber:
    return Subscriber(id_, f"{id_.hex}@example.org", "A", "B", "fr", AccountState.ACTIVE, None, units, 1)


def member(id_: UUID) -> Membership:
    return Membership(membership_of(GROUP, id_), GROUP, ADA, id_, True, 1, None, NOW, None)


def scene(setting: LowBalance = SETTING, *, closed: bool = False, **units: int) -> Scene:
    """Return a group whose members have these units."""
    ids = {id_of(name): each for name, each in units.items()}
    rows = [row for id_, each in ids.items() for row in (subscriber(id_, each), member(id_))]
    return given(GROUPS, Group(GROUP, ADA, "Ada", False, NOW if closed else None), subscriber(ADA, 3), setting, *rows)


def low(*ids: UUID) -> tuple[str, ...]:
    return tuple(sorted(id_.hex for id_ in ids))


def told(*members: UUID, day: date = TODAY, more: int = 0) -> SendMembersLow:
    return SendMembersLow(group_id=GROUP, owner_id=ADA, day=day, below_units=10, members=members, more=more)


def setting_of(scene: Scene) -> LowBalance:
    found: LowBalance = scene.only(LowBalance)
    return found


# --- what the owner says ---


def set_to(below: int | None, *, mail: bool = False, **more: Any) -> SetLowBalance:
    return SetLowBalance(group_id=GROUP, below_units=below, mail=mail, **more)


@pytest.mark.parametrize(
    ("command", "look_at"), [(set_to(10), None), (set_to(10, mail=True), LOOK), (set_to(None), None)]
)
def test_sets_what_is_low(command: SetLowBalance, look_at: datetime | None) -> None:
    found = given(GROUPS).when(command, actor=ADA)
    found.then(LowBalanceSet(group_id=GROUP, owner_id=ADA, below_units=command.below_units, mail=command.mail))
    found.leaves(LowBalance(GROUP, ADA, command.below_units, look_at, None, 0, ()))


def test_a_mail_needs_a_number_of_units() -> None:
    with pytest.raises(ValidationError):
        set_to(None, mail=True)


@pytest.mark.parametrize(("actor", "closed", "code"), [(BEA, False, "not_owner"), (ADA, True, "group_closed")])
def test_refuses(actor: UUID, closed: bool, code: str) -> None:
    command = set_to(5)
    found = scene(closed=closed).when(command, actor=actor)
    found.then(LowBalanceRefused(group_id=GROUP, code=code, command_type=command.TYPE))
    assert setting_of(found) == SETTING


def test_another_number_keeps_who_was_told_and_no_more_mails_forget_it() -> None:
    known = replace(SETTING, mailed_on=TODAY, mails=1, low=low(BEA))
    found = scene(known, bea=3).when(set_to(20, mail=True), actor=ADA)
    assert setting_of(found) == replace(known, below_units=20)
    found.when(set_to(20), actor=ADA)
    assert setting_of(found) == replace(known, below_units=20, look_at=None, low=())


def test_a_look_that_is_overdue_still_takes_place() -> None:
    found = scene(bea=15).when(set_to(20, mail=True), DUE, actor=ADA, at=LOOK + timedelta(hours=1))
    mail = told(BEA).model_copy(update={"below_units": 20})
    found.then(LowBalanceSet(group_id=GROUP, owner_id=ADA, below_units=20, mail=True), mail)
    assert setting_of(found).look_at == LOOK + DAY


# --- the look ---


def test_tells_the_owner_who_has_fewer_units_the_fewest_first() -> None:
    found = scene(bea=9, cat=0, dan=10).when(DUE, at=LOOK)
    found.then(told(CAT, BEA))
    assert setting_of(found) == replace(SETTING, look_at=LOOK + DAY, mailed_on=TODAY, mails=1, low=low(BEA, CAT))


def test_of_whom_nothing_is_known_yet_has_no_units() -> None:
    given(GROUPS, Group(GROUP, ADA, "Ada", False, None), SETTING, member(BEA)).when(DUE, at=LOOK).then(told(BEA))


def test_names_somebody_again_only_after_they_had_more() -> None:
    found = scene(bea=3).when(DUE, at=LOOK).then(told(BEA))
    found.when(DUE, at=LOOK + DAY).then()
    found = with_units(found, BEA, 30).when(DUE, at=LOOK + 2 * DAY).then()
    assert setting_of(found).low == ()
    with_units(found, BEA, 2).when(DUE, at=LOOK + 3 * DAY).then(told(BEA, day=TODAY + 3 * DAY))


def test_tells_of_who_is_new_among_them_and_of_nobody_else() -> None:
    found = scene(bea=3, cat=50).when(DUE, at=LOOK).then(told(BEA))
    with_units(found, CAT, 1).when(DUE, at=LOOK + DAY).then(told(CAT, day=TODAY + DAY))
    assert setting_of(found).mails == 2


def test_names_so_many_and_counts_the_others() -> None:
    many = {f"member{n}": n % 10 for n in range(MAX_NAMED + 7)}
    (message,) = scene(SETTING, closed=False, **many).when(DUE, at=LOOK).effects
    assert isinstance(message, SendMembersLow)
    assert (len(message.members), message.more) == (MAX_NAMED, 7)


def test_a_day_has_one_mail_whatever_the_clock_does() -> None:
    found = scene(bea=3, cat=50).when(DUE, DUE, at=LOOK).then(told(BEA))
    found = with_units(found, CAT, 1)
    found.when(DUE, at=LOOK + timedelta(minutes=1)).then()
    asked_again = replace(setting_of(found), look_at=LOOK)  # the clock was wrong, and went back
    found.database.contents.tables["low_balances"][GROUP] = asked_again
    found.when(DUE, at=LOOK + timedelta(minutes=2)).then()
    assert setting_of(found) == replace(asked_again, look_at=LOOK + DAY)
    found.when(DUE, at=LOOK + 5 * DAY).then(told(CAT, day=TODAY + 5 * DAY))
    assert setting_of(found).look_at == LOOK + 6 * DAY


@pytest.mark.parametrize("zone", ["America/Martinique", "Pacific/Kiritimati"])
def test_the_morning_and_the_day_are_the_owners(zone: str) -> None:
    clocks = ZoneInfo(zone)
    first = next_look(GROUP, NOW, clocks)
    owner = replace(subscriber(ADA, 3), time_zone=zone)
    found = given(GROUPS, owner, member(BEA), subscriber(BEA, 3)).when(set_to(10, mail=True), actor=ADA)
    assert setting_of(found).look_at == first
    day = first.astimezone(clocks).date()
    found.when(DUE, at=first).then(told(BEA, day=day))
    second = next_look(GROUP, first, clocks)
    assert setting_of(found) == replace(SETTING, look_at=second, mailed_on=day, mails=1, low=low(BEA))


def test_looks_no_more_where_no_mail_is_wanted_or_the_group_is_closed() -> None:
    off = replace(SETTING, look_at=None)
    assert setting_of(scene(off, bea=3).when(DUE, at=LOOK).then()) == off
    given(GROUPS).when(DUE, at=LOOK).then().leaves()
    closed = scene(replace(SETTING, low=low(BEA)), closed=True, bea=3).when(DUE, at=LOOK).then()
    assert setting_of(closed) == off


def test_an_expired_owner_is_told() -> None:
    found = scene(bea=3)
    expired = replace(subscriber(ADA, 3), state=AccountState.EXPIRED)
    found.database.contents.tables["subscribers"][ADA] = expired
    found.when(DUE, at=LOOK).then(told(BEA))


def test_the_look_is_due_as_the_row_says() -> None:
    assert LOOKS.record(replace(SETTING, look_at=None)) is None
    record = LOOKS.record(SETTING)
    assert record is not None
    message = decode(record, {LowBalanceDue.TYPE.encode(): LowBalanceDue}, ())
    assert isinstance(message, Incoming)
    assert (record.due_at, record.key, message.body) == (LOOK, str(GROUP).encode(), DUE)
    assert message.correlation_id == str(record.row_id)


def with_units(scene: Scene, id_: UUID, units: int) -> Scene:
    scene.database.contents.tables["subscribers"][id_] = subscriber(id_, units)
    return scene


# --- when ---


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/Martinique", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
@pytest.mark.parametrize("hour", [0, 5, 7, 8, 12, 23])
def test_the_next_look_is_in_the_owners_next_morning(zone: str, hour: int) -> None:
    after = datetime(2031, 3, 29, hour, 59, tzinfo=UTC)
    clocks = ZoneInfo(zone)
    look = next_look(GROUP, after, clocks)
    assert after < look <= after + timedelta(days=1, hours=1)
    begins = look.astimezone(clocks).replace(hour=8, minute=0, second=0, microsecond=0)
    assert begins <= look.astimezone(clocks) < begins + LOOKED_WITHIN


def test_the_looks_follow_the_clocks_when_they_change() -> None:
    before = next_look(GROUP, datetime(2031, 3, 29, 0, tzinfo=UTC), PARIS)
    assert next_look(GROUP, before, PARIS) - before == timedelta(hours=23)
