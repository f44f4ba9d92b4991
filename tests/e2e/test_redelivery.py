"""Whatever comes twice, or comes unreadable, changes nothing for anybody."""

from collections.abc import Iterable
from uuid import uuid4

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.groups import (
    DetachMembers,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberRef,
    MembersDetached,
    TransferRefused,
    TransferUnits,
    UnitsTransferred,
)
from popfax_contracts.ledger import SpendRefused, SpendUnits, UnitsSpent
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import AddOptionsPack, OptionsPackAdded, PaidActionRefused
from popfax_contracts.topics import (
    BY_NAME,
    GROUPS_COMMANDS_FROM_HTTP,
    NOTIFICATIONS_COMMANDS,
    PROVISIONING_PLANS,
    TOPICS,
    Principal,
    Topic,
)
from tests.e2e.driver import DEFINITIONS, Owner, Seen, Wire, World

READERS: dict[str, list[Principal]] = {
    topic.name: [service for service, definition in DEFINITIONS.items() if topic in definition.topics]
    for topic in TOPICS
}


def _rows(world: World) -> dict[str, list[object]]:
    """All that the services have written but the chassis's own: what a repetition must leave as it is."""
    tables = {
        Principal.LEDGER: ("accounts", "holds", "transfers", "entries"),
        Principal.PROVISIONING: ("subscribers", "addresses", "requests", "purchases", "sagas", "fax_numbers", "timers"),
        Principal.GROUPS: (
            "groups",
            "subscribers",
            "memberships",
            "invitations",
            "tallies",
            "transfers",
            "history",
            "plans",
            "sagas",
            "timers",
        ),
        Principal.NOTIFICATIONS: ("people", "mails", "deliveries"),
    }
    return {
        f"{service}.{table}": world.rows(service, f"SELECT t::text FROM {table} t ORDER BY 1")
        for service, names in tables.items()
        for table in names
    }


def _publish_again(world: World, records: list[Seen]) -> None:
    """Publish records once more, byte for byte, each as a principal that writes its topic."""
    wires = {principal: Wire(world.stack.kafka, principal) for principal in Principal}
    for seen in records:
        wires[BY_NAME[seen.topic].writer].send_raw(seen.topic, seen.key, seen.value, seen.headers, seen.partition)
    for wire in wires.values():
        wire.flush()


def test_each_message_twice_and_again_after_a_restart_changes_nothing(world: World) -> None:
    owner, other = world.owners(2, units=400)
    email = f"wanted.{world.mark}@example.com"
    commands = [
        world.create(owner),
        world.create(owner, plan="send_receive", price_units=120),
        world.create(owner, email),
        world.create(other, email),
        world.create(other, price_units=1),
        world.create(world.owner(units=1)),
    ]
    world.answers(commands, MemberAccountCreated, MemberAccountRefused)
    _live(world, owner)
    world.settle()
    records = list(world.log.read_to_end())
    assert {seen.topic for seen in records} >= {t.name for t in TOPICS if MESSAGES_ON[t.name] and not _quiet(t)}
    before, mails = _rows(world), len(world.mails_to("@"))

    _publish_again(world, records)
    world.settle()
    assert _rows(world) == before
    assert _said(world.log.read_to_end()) == _said(records), "what is answered again has the same id and content"

    world.product.stop_services()
    _publish_again(world, records)
    for service in world.product.services.values():
        service.launch(**service.settings)
    world.product.wait_ready()
    world.settle()
    assert _rows(world) == before
    assert _said(world.log.read_to_end()) == _said(records)
    assert len(world.mails_to("@")) == mails


def _said(records: Iterable[Seen]) -> set[tuple[object, ...]]:
    """Return what each message is: repetitions are the same."""
    return {(seen.topic, seen.header("ce_source"), seen.header("ce_id"), seen.key, seen.value) for seen in records}


def _live(world: World, owner: Owner) -> None:
    """Let a member join, get units, spend them, extend their account, and be detached."""
    group_id, ben = group_of(owner.id), world.owner(units=100)
    world.join(owner, ben)
    transfer = TransferUnits(group_id=group_id, mode="amount", amount_units=5, members="all")
    fax = SpendUnits(spend_id=uuid4(), account_id=ben.id, amount_units=2, purpose="fax", reference="fax-1")
    options = AddOptionsPack(request_id=uuid4(), account_id=ben.id, price_units=30)
    assert world.ask(transfer, UnitsTransferred, TransferRefused, actor=owner.id).says(UnitsTransferred)
    assert world.ask(fax, UnitsSpent, SpendRefused, actor=ben.id).says(UnitsSpent)
    assert world.ask(options, OptionsPackAdded, PaidActionRefused, actor=ben.id).says(OptionsPackAdded)
    members = (MemberRef(member_id=ben.id, epoch=1),)
    world.ask(DetachMembers(group_id=group_id, members=members), MembersDetached, actor=owner.id)


MESSAGES_ON: dict[str, list[str]] = {
    topic.name: [type_ for type_, model in MESSAGES.items() if topic in model.TOPICS] for topic in TOPICS
}


def _quiet(topic: Topic) -> bool:
    """Plans are published at deployment; here nobody is on the page, and no mail bounces."""
    return topic in (PROVISIONING_PLANS, GROUPS_COMMANDS_FROM_HTTP, NOTIFICATIONS_COMMANDS)


def test_unreadable_records_are_parked_by_their_readers_and_the_rest_flows_on(world: World) -> None:
    """On all topics at once, so that whatever flows on finds one before it on every topic that it takes."""
    before = world.parked()
    owner = world.owner(units=200)
    command = world.create(owner)
    for topic in TOPICS:
        _send_unreadable(world, topic)
    later = world.create(owner)
    outcomes = world.answers([command, later], MemberAccountCreated, MemberAccountRefused)
    assert {seen.kind for seen in outcomes.values()} == {MemberAccountCreated.TYPE}
    world.settle()
    assert world.available(owner) == 200 - 2 * 60
    parked: dict[tuple[Principal, str], list[str]] = {}
    for service, rows in world.parked().items():
        for topic_name, _, _, code in rows[len(before[service]) :]:
            parked.setdefault((service, topic_name), []).append(code)
    assert {place: sorted(codes) for place, codes in parked.items()} == {
        (service, topic.name): sorted(_codes(service, topic)) for topic in TOPICS for service in READERS[topic.name]
    }


def _send_unreadable(world: World, topic: Topic) -> None:
    """Send a record that nobody can decode to each partition, and a malformed one of a type that a reader handles."""
    wire = Wire(world.stack.kafka, topic.writer)
    undecodable = [("ce_id", b"\xff\xfe"), ("ce_type", b"\xff\x00\xfe")]
    malformed = [("ce_id", str(uuid4()).encode()), ("ce_type", _handled_type(topic).encode())]
    for partition in range(topic.partitions):
        wire.send_raw(topic.name, b"\xff\x00", b"\x00\xff", undecodable, partition)
    wire.send_raw(topic.name, str(uuid4()).encode(), b'{"plan": 1}', malformed)
    wire.flush()


def _handled_by(service: Principal, topic: Topic) -> list[str]:
    return [model.TYPE for model in DEFINITIONS[service].handlers if model.TYPE in MESSAGES_ON[topic.name]]


def _handled_type(topic: Topic) -> str:
    return next((types[0] for service in READERS[topic.name] if (types := _handled_by(service, topic))), "")


def _codes(service: Principal, topic: Topic) -> list[str]:
    """Return why a service parks them. On a topic of others, a type that it does not handle is ignored."""
    is_handled = _handled_type(topic) in _handled_by(service, topic)
    return ["unknown_type"] * topic.partitions + (["malformed_command"] if is_handled else [])
