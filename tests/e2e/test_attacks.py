"""Ids that others guess, take or reuse, on the running product: no command ends by them, and no unit moves twice."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from deploy.local.running import write_settings
from deploy.operator.cli.app import app
from popfax_contracts.groups import (
    GroupRenamed,
    GroupsCommandMalformed,
    MemberAccountCreated,
    RenameGroup,
    TransferRefused,
    UnitsTransferred,
)
from popfax_contracts.ids import derive, message_id
from popfax_contracts.ledger import (
    CaptureHold,
    CreditRefused,
    CreditUnits,
    HoldCaptured,
    HoldReleased,
    LedgerCommandMalformed,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    SpendRefused,
    SpendUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Command, Message, group_of
from popfax_contracts.provisioning import (
    AccountProvisioned,
    AddOptionsPack,
    DisableCallForwarding,
    ProvisionAccount,
    ProvisioningCommandMalformed,
    RegisterSubscriber,
)
from popfax_contracts.topics import (
    GROUPS_COMMANDS,
    GROUPS_COMMANDS_FROM_HTTP,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_EVENTS,
    PROVISIONING_COMMANDS_FROM_GROUPS,
    PROVISIONING_EVENTS,
    Principal,
    Topic,
)
from services.chassis.messages import source_of
from services.groups.web.posting import id_for
from tests.e2e.driver import PRICES, Owner, Seen, Wire, World, wait
from tests.e2e.holding import held_back
from tests.e2e.test_units import transfer
from tests.integration.serving import Answer, Client

ORDINALS = range(3)
"""Which consequence of its cause a message is that a saga goes on with, at most."""

OVER_HTTP = 25
"""So many of the ids are tried as idempotency keys, too: a person may post 60 commands a minute."""

_TO_LEDGER_AND_BACK = (GROUPS_COMMANDS_FROM_HTTP, LEDGER_COMMANDS_FROM_GROUPS, LEDGER_EVENTS)
_THROUGH_THE_SAGA = (
    *_TO_LEDGER_AND_BACK,
    PROVISIONING_COMMANDS_FROM_GROUPS,
    PROVISIONING_EVENTS,
    LEDGER_COMMANDS_FROM_GROUPS,
)


@dataclass(frozen=True)
class Attack:
    """What is posted, and every id that an owner who knows the rules can work out before they post it."""

    name: str
    body: dict[str, object]
    way: Sequence[Topic]
    """The topics on which the command and what follows from it travel, but the last."""
    told: frozenset[str]
    """The types of the messages that the outcome waits for."""

    def guesses(self, posted: UUID) -> list[str]:
        """Return all ids that may follow from the command's: by today's rule, and by that of id and ordinal alone."""
        today, once = [posted], [posted]
        found = [str(posted)]
        for topic in self.way:
            source = source_of(topic.writer).encode()
            today = [
                derive(message_id(topic.name, source, str(id_).encode()), str(n)) for id_ in today for n in ORDINALS
            ]
            once = [derive(id_, str(n)) for id_ in once for n in ORDINALS]
            found += [str(id_) for pair in zip(today, once, strict=True) for id_ in pair]
        return found


@pytest.fixture
def group(world: World) -> tuple[Owner, Owner]:
    """An owner with one member who has nothing yet."""
    owner, (member,) = world.owner(units=100), world.owners(1, units=0, name="member")
    world.join(owner, member)
    return owner, member


def _types(*models: type[Message]) -> frozenset[str]:
    return frozenset(model.TYPE for model in models)


def _transfer(world: World, member: Owner) -> Attack:
    body = {"mode": "amount", "amount_units": 30, "members": [str(member.id)]}
    return Attack("transfer-units", body, _TO_LEDGER_AND_BACK, _types(PostTransfers, TransfersPosted))


def _creation(world: World, member: Owner) -> Attack:
    body = {
        "plan": "send_only",
        "price_units": PRICES["send_only"],
        "email": f"nina.{world.mark}@example.com",
        "first_name": "Nina",
        "last_name": "Petit",
        "language": "fr",
    }
    told = _types(ReserveUnits, UnitsReserved, ProvisionAccount, AccountProvisioned, CaptureHold, HoldCaptured)
    return Attack("create-member-account", body, _THROUGH_THE_SAGA, told)


def _use_up(wire: Wire, owner: Owner, ids: Sequence[str]) -> None:
    """Send harmless commands to each service under these ids, as if its own partners did."""
    spend = SpendUnits(spend_id=uuid4(), account_id=owner.id, amount_units=1, purpose="fax", reference="none")
    forward = DisableCallForwarding(account_id=owner.id)
    rename = RenameGroup(group_id=group_of(owner.id), name="Harmless")
    for id_ in ids:
        for source in ("popfax/groups", "popfax/ledger", "popfax/provisioning"):
            wire.send(spend, uuid4(), ce_id=id_, ce_source=source)  # nobody's holder: refused
            wire.send(forward, owner.id, ce_id=id_, ce_source=source)
            wire.send(rename, owner.id, ce_id=id_, ce_source=source)
    wire.flush()


def _end(world: World, client: Client, posted: Answer) -> dict[str, object]:
    """Wait until a posted command has ended; return what its poster reads of it."""
    assert posted.status == 202, posted.text
    id_ = posted.json["id"]
    ended = "SELECT 1 FROM commands WHERE id = %s AND state <> 'pending'"
    wait(lambda: world.rows(Principal.GROUPS, ended, UUID(id_)), f"the end of {id_}", 60)
    told: dict[str, object] = client.get(posted.headers["location"]).json
    return told


@pytest.mark.parametrize("make", [_transfer, _creation])
def test_no_id_that_can_be_guessed_silences_what_follows_from_a_command(
    world: World, group: tuple[Owner, Owner], make: object
) -> None:
    owner, member = group
    attack: Attack = make(world, member)  # type: ignore[operator]
    client = world.client(owner.id)
    posted_id = id_for("the-order", owner.id)
    guesses = attack.guesses(posted_id)
    _use_up(world.wire, owner, guesses)
    keys = [client.post("rename-group", {"name": "Harmless"}, id_) for id_ in guesses[:OVER_HTTP]]
    assert {answer.status for answer in keys} == {202}
    posted = client.post(attack.name, attack.body, "the-order")
    assert posted.json["id"] == str(posted_id), "the attack knows the command's id beforehand"
    _use_up(world.wire, owner, guesses)
    again = [client.post("rename-group", {"name": "Harmless"}, id_) for id_ in guesses[:OVER_HTTP]]
    assert [answer.json["id"] for answer in again] == [answer.json["id"] for answer in keys]

    assert _end(world, client, posted)["state"] == "done"
    world.settle()
    real = {
        seen.id for seen in world.log.read_to_end() if seen.correlation == str(posted_id) and seen.kind in attack.told
    }
    assert len(real) == len(attack.told)
    assert real <= set(guesses), "every one of them was guessed, or this shows nothing"
    paid = 30 if make is _transfer else PRICES["send_only"]
    assert world.available(owner) == 100 - paid, "units move once"
    assert world.available(member) == (30 if make is _transfer else 0)
    left = {
        "a transfer": (Principal.GROUPS, "SELECT id FROM transfers WHERE owner_id = %s AND state = 'pending'"),
        "a hold": (Principal.LEDGER, "SELECT id FROM holds WHERE account_id = %s AND state = 'open'"),
        "a command": (Principal.GROUPS, "SELECT id FROM commands WHERE actor_id = %s AND state = 'pending'"),
    }
    assert [what for what, (service, query) in left.items() if world.rows(service, query, owner.id)] == []
    world.check_log()


def test_an_idempotency_key_is_one_persons_alone(world: World) -> None:
    ada, bob = (world.client(owner.id) for owner in world.owners(2))
    key = str(uuid4())
    first = ada.post("rename-group", {"name": "Of Ada"}, key)
    other = bob.post("rename-group", {"name": "Of Bob"}, key)
    taken = bob.post("rename-group", {"name": "Of Bob"}, first.json["id"])
    assert _end(world, ada, first)["state"] == "done"
    assert [_end(world, bob, each)["state"] for each in (other, taken)] == ["done", "done"]
    assert len({each.json["id"] for each in (first, other, taken)}) == 3
    assert ada.post("rename-group", {"name": "Of Ada"}, key).json["id"] == first.json["id"]
    assert ada.post("rename-group", {"name": "Another"}, key).problem == (409, "id_conflict")
    assert [each.get("/v1/group").json["name"] for each in (ada, bob)] == ["Of Ada", "Of Bob"]
    world.settle()


def _with_id(body: Command, name: str, id_: UUID) -> bytes:
    """Return a command's value with an id in it that its model would not let anybody choose."""
    return json.dumps(json.loads(body.to_json()) | {name: str(id_)}).encode()


def _claims(owner: Owner) -> Iterator[tuple[Command, str, type[Message]]]:
    """Yield the commands in whose values a client chooses an id, the id's name, and what refuses one of ours."""
    yield CreditUnits(credit_id=uuid4(), account_id=owner.id, amount_units=5), "credit_id", LedgerCommandMalformed
    yield _spend(owner, uuid4()), "spend_id", LedgerCommandMalformed
    pack = AddOptionsPack(request_id=uuid4(), account_id=owner.id, price_units=1)
    yield pack, "request_id", ProvisioningCommandMalformed


def _spend(owner: Owner, spend_id: UUID) -> SpendUnits:
    return SpendUnits(spend_id=spend_id, account_id=owner.id, amount_units=1, purpose="fax", reference="a-fax")


def _send_claim(world: World, body: Command, name: str, id_: UUID, actor: UUID) -> str:
    sent = str(uuid4())
    headers = [("ce_id", sent.encode()), ("ce_type", body.TYPE.encode()), ("ce_actor", str(actor).encode())]
    topic = body.topic_of(Principal.PLATFORM).name
    world.wire.send_raw(topic, body.key().encode(), _with_id(body, name, id_), headers)
    return sent


def test_no_value_takes_the_id_of_a_hold_or_a_transfer(
    world: World, group: tuple[Owner, Owner], tmp_path: Path
) -> None:
    owner, _ = group
    units = transfer(owner, 10)
    moved = UUID(world.ask(units, UnitsTransferred, actor=owner.id)["transfer_id"])
    open_hold = "SELECT id FROM holds WHERE account_id = %s AND state = 'open'"
    groups = Wire(world.stack.kafka, Principal.GROUPS)
    with held_back(world, Principal.PROVISIONING, AccountProvisioned):
        creation = world.create(owner)
        wait(lambda: world.rows(Principal.LEDGER, open_hold, owner.id), "a live hold")
        hold = world.rows(Principal.LEDGER, open_hold, owner.id)[0][0]
        for id_ in (hold, moved):
            for body, name, refusal in _claims(owner):
                sent = _send_claim(world, body, name, id_, owner.id)
                refused = world.log.outcome(sent, refusal)
                assert any("own_id" in error for error in refused["errors"]), refused.value
        post = PostTransfers.model_validate(
            {"transfer_id": hold, "source_id": owner.id, "legs": [{"account_id": uuid4(), "amount_units": 1}]}
        )
        reserve = ReserveUnits(hold_id=moved, account_id=owner.id, amount_units=1)
        conflicts = [groups.send(post, owner.id), groups.send(reserve)]
        groups.flush()
        answers = world.answers(conflicts, TransfersRefused, TransfersPosted, UnitsRefused, UnitsReserved)
        assert [answers[each]["code"] for each in conflicts] == ["id_conflict", "id_conflict"]
        burned = uuid4()  # an id that a client may choose, too, and that a release used up
        released = groups.send(ReleaseHold(hold_id=burned, account_id=owner.id))
        groups.flush()
        world.answers([released], HoldReleased)
        for claim in (CreditUnits(credit_id=burned, account_id=owner.id, amount_units=5), _spend(owner, burned)):
            assert world.ask(claim, CreditRefused, SpendRefused, actor=owner.id)["code"] == "id_conflict"
        world.forget_burned(burned)
    assert world.outcome(creation).says(MemberAccountCreated)
    world.settle()
    assert world.available(owner) == 100 - 10 - PRICES["send_only"]
    file = write_settings(tmp_path, world.stack)
    for command in (("ledger", "verify"), ("audit", "--settled")):
        done = CliRunner().invoke(app, [*command, "--env-file", str(file)])
        assert done.exit_code == 0, done.output


def test_nobody_takes_the_id_of_somebody_elses_account(world: World) -> None:
    owner = world.owner()
    person = RegisterSubscriber.model_validate(
        {
            "subscriber_id": owner.id,
            "email": f"mallory.{world.mark}@example.com",
            "first_name": "Mallory",
            "last_name": "M.",
            "language": "en",
        }
    )
    created = world.outcome(world.create(owner))
    sent = _send_claim(world, person, "subscriber_id", UUID(created["member_id"]), owner.id)
    headers = dict(world.log.outcome(sent, ProvisioningCommandMalformed).headers)
    assert headers["ce_correlationid"] == sent.encode()
    world.settle()


def test_somebody_elses_correlation_id_ends_nobodys_command(world: World, group: tuple[Owner, Owner]) -> None:
    owner, member = group
    ada, mallory = world.client(owner.id), world.owner()
    with held_back(world, Principal.LEDGER, TransfersPosted):
        give = {"mode": "amount", "amount_units": 30, "members": [str(member.id)]}
        posted = ada.post("transfer-units", give)
        assert posted.status == 202
        moved = "SELECT 1 FROM held WHERE correlation_id = %s"
        id_ = posted.json["id"]
        wait(lambda: world.rows(Principal.LEDGER, moved, id_), "the units have moved")
        refused = transfer(mallory, 1)  # no members: groups itself refuses it, as it would refuse Ada's
        negative = refused.model_copy(update={"amount_units": -1})  # can't be read
        for body, answer in ((refused, TransferRefused), (negative, GroupsCommandMalformed)):
            sent = [world.wire.send(body, actor, ce_correlationid=id_) for actor in (mallory.id, None)]
            world.wire.flush()
            for told in world.log.wait(2, partial(_tells, answer, sent)):
                assert told.correlation == id_
        assert ada.get(posted.headers["location"]).json["state"] == "pending"
    assert _end(world, ada, posted)["state"] == "done"
    world.settle()
    assert (world.available(owner), world.available(member)) == (70, 30)


def _tells(answer: type[Message], commands: Sequence[str], seen: Seen) -> bool:
    return seen.says(answer) and seen.header("ce_causationid") in commands


def _structured(body: Command, **attributes: str) -> bytes:
    event = {"specversion": "1.0", "type": body.TYPE, "datacontenttype": "application/json", **attributes}
    return json.dumps(event | {"data": json.loads(body.to_json())}).encode()


@pytest.mark.parametrize("given", [{}, {"correlationid": "Bestellung 7/ü"}])
def test_an_event_in_structured_mode_whose_id_is_any_text_is_answered_to_it(
    world: World, given: dict[str, str]
) -> None:
    owner = world.owner(units=200)
    headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    bodies: list[tuple[Command, type[Message]]] = [
        (world.command(owner), MemberAccountCreated),
        (RenameGroup(group_id=group_of(owner.id), name="Branches"), GroupRenamed),
    ]
    for number, (body, answer) in enumerate(bodies):
        id_ = f"order {number}/é {world.mark}"
        correlation = f"{given['correlationid']} {number} {world.mark}" if given else id_
        attributes = {"id": id_, "source": "https://shop.example/orders", "actor": str(owner.id)}
        attributes |= {"correlationid": correlation} if given else {}
        for _ in range(2):  # the second time it is known
            key = body.key().encode()
            world.wire.send_raw(GROUPS_COMMANDS.name, key, _structured(body, **attributes), headers)
        world.wire.flush()
        told = world.log.outcome(correlation, answer)
        assert told.header("ce_actor") == str(owner.id)
        if answer is GroupRenamed:
            assert told.header("ce_causationid") == id_
    world.settle()
    assert world.available(owner) == 200 - PRICES["send_only"]
    world.check_log()
