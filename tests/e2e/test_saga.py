"""The account-creation saga through the whole product: what an owner gets, and what they are told when they don't."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from popfax_contracts.groups import (
    GroupsCommandMalformed,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberJoined,
)
from popfax_contracts.ledger import (
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    UnitsRefused,
)
from popfax_contracts.notifications import PasswordLinkIssued
from popfax_contracts.topics import GROUPS_COMMANDS, Principal
from tests.e2e.driver import PRICES, Owner, Wire, World, wait


def test_an_owner_creates_an_account_that_is_paid_and_a_member_at_once(world: World) -> None:
    owner = world.owner(units=200)
    price = PRICES["send_receive"]
    id_ = world.create(owner, f"nina.{world.mark}@example.com", plan="send_receive", price_units=price)
    created = world.outcome(id_)
    assert created.says(MemberAccountCreated)
    member = created["member_id"]
    joined, link = world.log.outcome(id_, MemberJoined), world.log.outcome(id_, PasswordLinkIssued)
    assert (joined["member_id"], joined["owner_id"], joined["epoch"]) == (member, str(owner.id), 1)
    world.settle()
    assert world.available(owner) == 200 - price
    (welcome,), (receipt,) = world.mails_to(f"nina.{world.mark}@example.com"), world.mails_to(owner.email)
    assert welcome["subject"] == "Welcome to Popfax"
    assert "Reçu" in receipt["subject"]
    assert link["token_sha256"] not in str(welcome), "the mail has the token, the event its hash"
    world.check_log()


Send = Callable[[World, Owner], str]

REFUSALS: dict[str, Send] = {
    "not_owner": lambda world, owner: world.wire.send(world.command(owner), actor=uuid4()),
    "unknown_plan": lambda world, owner: world.create(owner, plan="gold"),
    "price_changed": lambda world, owner: world.create(owner, price_units=1),
    "email_taken": lambda world, owner: world.create(owner, email=owner.email),
    "units_short": lambda world, owner: world.create(world.owner(units=1, name="poor")),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_says_why_and_leaves_no_trace(world: World, code: str) -> None:
    owner = world.owner(units=500)
    id_ = REFUSALS[code](world, owner)
    world.wire.flush()
    refused = world.outcome(id_)
    assert (refused.kind, refused["code"]) == (MemberAccountRefused.TYPE, code)
    assert refused.correlation == id_
    world.settle()
    assert world.available(owner) == 500
    world.check_log()


def test_a_member_is_not_created_a_second_time(world: World) -> None:
    owner, email = world.owner(), f"nina.{world.mark}@example.com"
    assert world.outcome(world.create(owner, email)).says(MemberAccountCreated)
    known = "SELECT 1 FROM subscribers WHERE email = %s"
    wait(lambda: world.rows(Principal.GROUPS, known, email), "groups knows the address")
    refused = world.outcome(world.create(owner, email.upper()))
    assert refused["code"] == "already_member"
    world.settle()
    assert world.available(owner) == 1000 - PRICES["send_only"]


def test_a_malformed_command_is_refused_to_who_sent_it(world: World) -> None:
    owner = world.owner()
    command = world.command(owner)
    for value in (b'{"group_id": 1}', command.to_json().replace(b"Nina", b"Ni\\nna")):
        id_ = str(uuid4())
        headers = [("ce_id", id_.encode()), ("ce_type", command.TYPE.encode())]
        world.wire.send_raw(GROUPS_COMMANDS.name, command.key().encode(), value, headers)
        refused = world.log.outcome(id_, GroupsCommandMalformed)
        assert (refused["code"], refused["command_id"]) == ("malformed_command", id_)
        assert "Petit" not in str(refused.value), "the reasons name fields, not contents"
    world.settle()


def test_of_two_owners_who_create_one_address_at_once_one_gets_it_and_the_other_their_units_back(
    world: World,
) -> None:
    owners = world.owners(10, units=300)
    pairs = list(zip(owners[::2], owners[1::2], strict=True))
    commands = [
        [world.create(owner, f"wanted{number}.{world.mark}@example.com") for owner in pair]
        for number, pair in enumerate(pairs)
    ]
    outcomes = world.answers([id_ for both in commands for id_ in both], MemberAccountCreated, MemberAccountRefused)
    world.settle()
    for pair, both in zip(pairs, commands, strict=True):
        refused = [outcomes[id_] for id_ in both if outcomes[id_].says(MemberAccountRefused)]
        assert [seen["code"] for seen in refused] == ["email_taken"]
        assert sorted(world.available(owner) for owner in pair) == [300 - PRICES["send_only"], 300]
    world.check_log()


def test_a_compensation_that_comes_first_burns_the_hold(world: World) -> None:
    owner, hold = world.owner(units=100), uuid4()
    groups = Wire(world.stack.kafka, Principal.GROUPS)
    released = groups.send(ReleaseHold(hold_id=hold, account_id=owner.id))
    reserved = groups.send(ReserveUnits(hold_id=hold, account_id=owner.id, amount_units=60))
    groups.flush()
    answers = world.answers([released, reserved], HoldReleased, UnitsRefused)
    assert (answers[released].kind, answers[released]["amount_units"]) == (HoldReleased.TYPE, 0)
    assert (answers[reserved].kind, answers[reserved]["code"]) == (UnitsRefused.TYPE, "hold_cancelled")
    world.forget_burned(hold)
    world.settle()
    assert world.available(owner) == 100
    world.check_log()
