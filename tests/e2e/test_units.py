"""Units through the whole product: given, topped up, spent; never made, never lost, never seen by who must not."""

from typing import Any, Literal
from uuid import UUID, uuid4

import pytest

from popfax_contracts.dates import months_later
from popfax_contracts.groups import (
    DetachMembers,
    MemberPaidFor,
    MemberPaymentRefused,
    MemberRef,
    MembersDetached,
    PayForMember,
    TransferRefused,
    TransferUnits,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.ledger import SpendRefused, SpendUnits, UnitsSpent
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from tests.e2e.driver import PRICES, Owner, World, wait


def transfer(
    owner: Owner,
    units: int,
    members: tuple[UUID, ...] | Literal["all"] = "all",
    mode: Literal["amount", "top_up_to"] = "amount",
) -> TransferUnits:
    return TransferUnits(group_id=group_of(owner.id), mode=mode, amount_units=units, members=members)


def spend(account: Owner, units: int) -> SpendUnits:
    return SpendUnits(
        spend_id=uuid4(), account_id=account.id, amount_units=units, purpose="fax", reference=f"fax-{uuid4().hex[:8]}"
    )


@pytest.fixture
def group(world: World) -> tuple[Owner, Owner, Owner]:
    """An owner with two members who have nothing yet."""
    owner = world.owner(units=100)
    ben, eve = world.owners(2, units=0, name="member")
    world.join(owner, ben, eve)
    return owner, ben, eve


def test_units_go_to_all_then_up_to_a_balance_and_are_spent(world: World, group: tuple[Owner, Owner, Owner]) -> None:
    owner, ben, eve = group
    given = world.ask(transfer(owner, 10), UnitsTransferred, TransferRefused, actor=owner.id)
    assert (given["total_units"], {leg["amount_units"] for leg in given["legs"]}) == (20, {10})
    spent = world.ask(spend(ben, 4), UnitsSpent, SpendRefused, actor=ben.id)
    assert spent.says(UnitsSpent)
    topped = world.ask(transfer(owner, 10, mode="top_up_to"), UnitsTransferred, TransferRefused, actor=owner.id)
    assert {leg["member_id"]: leg["amount_units"] for leg in topped["legs"]} == {str(ben.id): 4, str(eve.id): 0}
    received = world.log.wait(3, lambda seen: seen.says(UnitsReceived))
    assert sorted((s["member_id"], s["amount_units"]) for s in received) == sorted(
        [(str(ben.id), 10), (str(eve.id), 10), (str(ben.id), 4)]
    )
    world.settle()
    assert [world.available(each) for each in group] == [76, 10, 10]
    shown = "SELECT available_units FROM subscribers WHERE id = ANY(%s) ORDER BY available_units"
    assert world.rows(Principal.GROUPS, shown, [each.id for each in group]) == [(10,), (10,), (76,)]
    lines = "SELECT outcome, units FROM history WHERE group_id = %s AND kind = 'transfer' ORDER BY at, units"
    assert world.rows(Principal.GROUPS, lines, group_of(owner.id)) == [("done", u) for u in (10, 10, 0, 4)]
    assert len(world.mails_to(ben.email)) == 3, "the invitation, and each time that they got units"
    world.check_log()


def test_what_nobody_may_or_can_transfer_is_refused(world: World, group: tuple[Owner, Owner, Owner]) -> None:
    owner, ben, eve = group
    lone = world.owner()
    codes = [
        world.ask(transfer(owner, 1), TransferRefused, actor=ben.id)["code"],
        world.ask(transfer(owner, 1, (ben.id, lone.id)), TransferRefused, actor=owner.id)["code"],
        world.ask(transfer(lone, 1), TransferRefused, actor=lone.id)["code"],
        world.ask(transfer(owner, 51), TransferRefused, actor=owner.id)["code"],
    ]
    assert codes == ["not_owner", "not_member", "no_members", "units_short"]
    world.settle()
    assert [world.available(each) for each in (owner, ben, eve)] == [100, 0, 0], "all of it, or nothing"


def test_who_is_detached_first_gets_nothing_and_who_is_detached_after_keeps_it(
    world: World, group: tuple[Owner, Owner, Owner]
) -> None:
    owner, ben, eve = group

    def detach(member: Owner) -> DetachMembers:
        return DetachMembers(group_id=group_of(owner.id), members=(MemberRef(member_id=member.id),))

    first = [world.wire.send(body, owner.id) for body in (detach(ben), transfer(owner, 5, (ben.id,)))]
    after = [world.wire.send(body, owner.id) for body in (transfer(owner, 7, (eve.id,)), detach(eve))]
    world.wire.flush()
    answers = world.answers([*first, *after], MembersDetached, UnitsTransferred, TransferRefused)
    assert answers[first[1]]["code"] == "not_member"
    assert answers[after[0]].says(UnitsTransferred)
    world.settle()
    assert [world.available(each) for each in (owner, ben, eve)] == [93, 0, 7]
    world.check_log()


def test_the_same_units_are_not_spent_twice_by_a_fax_and_a_transfer(
    world: World, group: tuple[Owner, Owner, Owner]
) -> None:
    owner, ben, _ = group
    sent = []
    for _ in range(10):
        sent.append(world.wire.send(spend(owner, 30), owner.id))
        sent.append(world.wire.send(transfer(owner, 30, (ben.id,)), owner.id))
    world.wire.flush()
    answers = world.answers(sent, UnitsSpent, SpendRefused, UnitsTransferred, TransferRefused)
    done = [each for each in answers.values() if each.says(UnitsSpent) or each.says(UnitsTransferred)]
    assert len(done) == 3, "30 of 100, three times"
    assert {each["code"] for each in answers.values() if each not in done} == {"units_short"}
    world.settle()
    assert world.available(owner) == 10


def test_an_owner_pays_for_a_member_once_what_was_shown_and_nothing_of_it_is_the_members(world: World) -> None:
    owner, email = world.owner(units=500), f"paid-{uuid4().hex[:8]}@example.org"
    created = world.outcome(world.create(owner, email=email))
    member_id = UUID(created["member_id"])
    ends = "SELECT expires_at FROM subscribers WHERE id = %s"
    ((shown,),) = world.rows(Principal.GROUPS, ends, member_id)

    def pay(action: Literal["extension", "options_pack"], price: int, **more: Any) -> PayForMember:
        group_id = group_of(owner.id)
        return PayForMember(group_id=group_id, member_id=member_id, action=action, price_units=price, **more)

    year = pay("extension", PRICES["send_only"], expires_at=shown)
    sent = [world.wire.send(each, owner.id) for each in (year, year, pay("options_pack", 30), pay("options_pack", 31))]
    world.wire.flush()
    answers = world.answers(sent, MemberPaidFor, MemberPaymentRefused)
    codes = [answers[each]["code"] if answers[each].says(MemberPaymentRefused) else "paid" for each in sent]
    assert sorted(codes[:2]) == ["end_changed", "paid"], "both were shown the same end, and one of them moved it"
    assert codes[2:] in (["paid", "already_added"], ["paid", "price_changed"])
    world.settle()
    assert world.available(owner) == 500 - 2 * PRICES["send_only"] - 30
    ((new,),) = world.rows(Principal.PROVISIONING, ends, member_id)
    assert new == months_later(shown, 12)
    assert world.rows(Principal.GROUPS, ends, member_id) == [(new,)]
    held = "SELECT DISTINCT account_id FROM holds WHERE state = 'captured' AND account_id = ANY(%s)"
    assert world.rows(Principal.LEDGER, held, [owner.id, member_id]) == [(owner.id,)]
    subjects = [mail["Subject"] for mail in world.mails_to(email)]
    assert subjects.count("Anne Martin has paid for your Popfax account") == 2
    world.check_log()


def test_a_thousand_members_in_one_command(world: World) -> None:
    owner = world.owner(units=5000)
    joining = world.owners(1000, units=0, name="member")
    world.join_without_mail(owner, joining)
    members = [member.id for member in joining]
    given = world.ask(transfer(owner, 3), UnitsTransferred, TransferRefused, actor=owner.id)
    assert (len(given["legs"]), given["total_units"]) == (1000, 3000)
    got = "SELECT count(*), sum(balance_units) FROM accounts WHERE id = ANY(%s)"
    wait(lambda: world.rows(Principal.LEDGER, got, members) == [(1000, 3000)], "a thousand balances")
    done = "SELECT count(*) FROM history WHERE group_id = %s AND kind = 'transfer' AND outcome = 'done' AND units = 3"
    wait(lambda: world.rows(Principal.GROUPS, done, group_of(owner.id)) == [(1000,)], "a thousand lines")
    assert world.available(owner) == 2000
