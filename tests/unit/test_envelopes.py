"""Envelopes, as docs/borders.md says: each of its examples is put into a good command and read by the real code."""

import json
from uuid import UUID

import pytest

from popfax_contracts.ledger import CreditUnits
from services.chassis.messages import Incoming, Undecodable, decode
from tests.borders import examples, quoted
from tests.simulation.bus import BusRecord

BODY = CreditUnits(credit_id=UUID(int=1), account_id=UUID(int=2), amount_units=3)
HANDLED = {BODY.TYPE.encode(): CreditUnits}
TOPIC = BODY.TOPICS[0].name
GOOD = {"ce_specversion": b"1.0", "ce_id": b"7", "ce_source": b"shop", "ce_type": BODY.TYPE.encode()}
EXAMPLES = examples("envelopes")


def outcome(headers: list[tuple[str, bytes | None]], value: bytes = BODY.to_json()) -> str:
    found = decode(BusRecord(TOPIC, 0, 0, BODY.key().encode(), value, headers), HANDLED, {TOPIC})
    assert found is not None
    return found.code if isinstance(found, Undecodable) else "accepted"


def values(cell: str) -> list[bytes | None]:
    if cell in ("absent", "null"):
        return [None] * (cell == "null")
    return [quoted(each).encode() for each in cell.split(", ")]


@pytest.mark.parametrize(("name", "cell", "expected"), EXAMPLES, ids=[f"{n} {c}" for n, c, _ in EXAMPLES])
def test_an_envelope_is_read_or_refused_as_the_table_says(name: str, cell: str, expected: str) -> None:
    others = [(each, value) for each, value in GOOD.items() if each != name]
    assert outcome([*others, *((name, value) for value in values(cell))]) == expected


def event(**changes: object) -> bytes:
    attributes = {name.removeprefix("ce_"): value.decode() for name, value in GOOD.items()}
    return json.dumps(attributes | {"data": json.loads(BODY.to_json())} | changes).encode()


@pytest.mark.parametrize("media", ["application/cloudevents+json", 'Application/CloudEvents+JSON; charset="UTF-8"'])
def test_structured_mode_says_the_same(media: str) -> None:
    record = BusRecord(
        TOPIC, 0, 0, BODY.key().encode(), event(actor=str(UUID(int=5))), [("content-type", media.encode())]
    )
    found = decode(record, HANDLED, {TOPIC})
    binary = [*GOOD.items(), ("ce_actor", str(UUID(int=5)).encode())]
    same = decode(BusRecord(TOPIC, 0, 0, BODY.key().encode(), BODY.to_json(), binary), HANDLED, {TOPIC})
    assert isinstance(found, Incoming)
    assert isinstance(same, Incoming)
    assert (found.id, found.body, found.actor, found.sent_id) == (same.id, same.body, same.actor, same.sent_id)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (event(data=None, data_base64="e30="), "malformed_envelope"),
        (b"{", "malformed_envelope"),
        (b"[]", "malformed_envelope"),
        (event(id=7), "malformed_envelope"),
        (event(id=""), "malformed_envelope"),
        (event(specversion="0.3"), "malformed_envelope"),
        (event(data={}), "malformed_command"),
        (event(datacontenttype="text/xml"), "malformed_envelope"),
        (event(type="popfax.of-tomorrow.v9"), "unknown_type"),
        (b'{"id": "7", "id": "8"}', "malformed_envelope"),
        (b"[" * 100_000, "malformed_envelope"),
    ],
)
def test_what_is_no_event_in_json_is_refused(value: bytes, expected: str) -> None:
    assert outcome([("content-type", b"application/cloudevents+json")], value) == expected
