"""Messages as they travel: out and in again, and to the partition where every writer would put them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.groups import MembershipEnded
from popfax_contracts.ids import message_id
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.message import Event
from popfax_contracts.provisioning import PersonErased
from popfax_contracts.topics import GROUPS_EVENTS, GROUPS_MEMBERS
from services.chassis.kafka import partition_of
from services.chassis.messages import Incoming, Outgoing, Undecodable, decode, headers_of, outgoing, position_id
from tests.simulation.bus import BusRecord
from tests.unit.given import incoming

uuids = st.uuids().filter(lambda id_: id_.version != 8)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), min_size=1, max_size=50)


@given(uuids, uuids, st.integers(1, 10**9), uuids, texts, st.none() | uuids, st.none() | texts)
def test_what_goes_out_comes_in_as_it_was(
    credit: UUID, account: UUID, units: int, id_: UUID, correlation: str, actor: UUID | None, trace: str | None
) -> None:
    body = CreditUnits(credit_id=credit, account_id=account, amount_units=units)
    out = Outgoing(id_, body.TYPE, body.key(), body.to_json(), correlation, "cause", actor, trace)
    headers = headers_of(out, "popfax/platform", datetime(2031, 1, 1, tzinfo=UTC).isoformat())
    record = BusRecord(body.TOPICS[0].name, 0, 0, out.key.encode(), out.value, list(headers))
    handled = {name.encode(): model for name, model in MESSAGES.items()}
    who = message_id(record.topic, b"popfax/platform", str(id_).encode())
    assert decode(record, handled, {record.topic}) == Incoming(
        who, body, record, correlation, actor, trace, sent_id=str(id_)
    )


def test_headers_are_cloudevents() -> None:
    out = Outgoing(UUID(int=1), "x.v1", "k", b"{}", "corr", "cause", UUID(int=2), "trace")
    assert headers_of(out, "popfax/ledger", "now") != headers_of(out, "popfax/groups", "now")
    assert dict(headers_of(out, "popfax/ledger", "now")) == {
        "ce_specversion": b"1.0",
        "ce_id": str(UUID(int=1)).encode(),
        "ce_source": b"popfax/ledger",
        "ce_type": b"x.v1",
        "ce_time": b"now",
        "ce_correlationid": b"corr",
        "ce_causationid": b"cause",
        "ce_actor": str(UUID(int=2)).encode(),
        "traceparent": b"trace",
    }
    bare = Outgoing(UUID(int=1), "x.v1", "k", b"{}", "corr", "cause", None, None)
    assert {"ce_actor", "traceparent"}.isdisjoint(dict(headers_of(bare, "popfax/ledger", "now")))


# --- tombstones ---


def tombstone(**changes: Any) -> BusRecord:
    """The record that erases a person, with parts of it changed."""
    body = PersonErased(subscriber_id=UUID(int=1))
    out = Outgoing(UUID(int=2), body.TYPE, body.key(), body.to_json(), "corr", "cause", None, None)
    headers = list(headers_of(out, "popfax/provisioning", "now"))
    record = BusRecord(body.TOPICS[0].name, 0, 0, out.key.encode(), out.value or None, headers)
    return replace(record, **changes)


HANDLED = {model.TYPE.encode(): model for model in (PersonErased, MembershipEnded)}


@pytest.mark.parametrize("value", [None, b""])
def test_a_tombstone_has_no_value_and_its_key_says_everything(value: bytes | None) -> None:
    record = tombstone(value=value)
    body = PersonErased(subscriber_id=UUID(int=1))
    assert body.to_json() == b""
    who = message_id(record.topic, b"popfax/provisioning", str(UUID(int=2)).encode())
    assert decode(record, HANDLED, ()) == Incoming(who, body, record, "corr", sent_id=str(UUID(int=2)))
    assert PersonErased.from_record(record.key, value) == body


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a value": ({"value": b"{}"}, "malformed_command"),
    "a value that says the same": (
        {"value": b'{"subscriber_id": "%s"}' % str(UUID(int=1)).encode()},
        "malformed_command",
    ),
    "no key": ({"key": None}, "malformed_command"),
    "a key that is no id": ({"key": b"somebody"}, "malformed_command"),
    "a key that is no text": ({"key": b"\xff"}, "malformed_command"),
    "a key in another spelling": ({"key": UUID(int=1).hex.encode()}, "wrong_key"),
}


@pytest.mark.parametrize(("changes", "code"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_tombstone_is_undecodable_with(changes: dict[str, Any], code: str) -> None:
    found = decode(tombstone(**changes), HANDLED, ())
    assert isinstance(found, Undecodable)
    assert found.code == code
    assert "somebody" not in repr(found.errors), "a key may be personal"


def test_what_is_no_tombstone_needs_a_value() -> None:
    body = CreditUnits(credit_id=UUID(int=1), account_id=UUID(int=2), amount_units=3)
    headers = [("ce_type", body.TYPE.encode()), ("ce_id", str(UUID(int=4)).encode())]
    found = decode(
        BusRecord(body.TOPICS[0].name, 0, 0, body.key().encode(), None, headers), {body.TYPE.encode(): CreditUnits}, ()
    )
    assert isinstance(found, Undecodable)


def test_refuses_a_tombstone_that_says_more_than_its_key_or_is_never_compacted() -> None:
    with pytest.raises(TypeError, match="is a tombstone"):

        class More(Event, type="more.v1", topic=GROUPS_MEMBERS, key="id", tombstone=True):
            id: UUID
            why: str

    with pytest.raises(TypeError, match="is a tombstone"):

        class Kept(Event, type="kept.v1", topic=GROUPS_EVENTS, key="id", tombstone=True):
            id: UUID


# --- ids ---


def test_the_same_cause_makes_the_same_message_again_and_its_next_one_another() -> None:
    body = CreditUnits(credit_id=UUID(int=1), account_id=UUID(int=2), amount_units=3)
    cause = incoming(body)
    assert outgoing(body, 0, cause) == outgoing(body, 0, cause)
    assert outgoing(body, 0, cause).id == uuid5(cause.id, "0") != outgoing(body, 1, cause).id


@dataclass
class At(BusRecord):
    """A record in a partition, and when it came there."""

    timestamp: int = 0


RECORD = At("a", 0, 7, b"key", b"value", (("name", b"header"), ("null", None)), 1_000)


def test_a_record_that_is_delivered_again_is_the_same() -> None:
    assert position_id(RECORD) == position_id(replace(RECORD, headers=[*RECORD.headers]))


OTHERS: list[dict[str, Any]] = [
    {"topic": "b"},
    {"partition": 1},
    {"offset": 8},
    {"timestamp": 1_001},
    {"key": None},
    {"key": b""},
    {"key": b"keyvalue", "value": b""},
    {"value": None},
    {"headers": ()},
    {"headers": (("name", b"header"),)},
    {"headers": (("name", b"header"), ("null", b""))},
    {"headers": (("\udcff", b"header"), ("null", None))},
]


def test_another_record_is_another_even_in_the_same_place() -> None:
    """A topic that was deleted and recreated has other records where the old ones stood."""
    ids = {position_id(replace(RECORD, **changes)) for changes in [{}, *OTHERS]}
    assert len(ids) == len(OTHERS) + 1


@given(st.text(max_size=60) | uuids.map(str), st.integers(1, 64))
@settings(max_examples=500)
def test_a_key_goes_to_the_partition_where_kafkas_own_clients_put_it(key: str, partitions: int) -> None:
    every = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key.encode(), every, every)


@pytest.mark.parametrize("key", ["", "a", "ab", "abc", "abcd", "abcde", "é", "8d4c1a52-3a7e-5f0e-9a44-0f6c2b1d7e90"])
def test_a_key_is_hashed_as_java_does(key: str) -> None:
    assert partition_of(key, 2**31) == murmur2(key.encode()) & 0x7FFFFFFF
