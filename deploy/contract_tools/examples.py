"""Examples: whole records as they are on Kafka, for people to read and tests to replay.

`contracts/examples/<type>/<name>.json` has `headers`, `key` and `value` (null for a tombstone).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from jsonschema import Draft202012Validator

from deploy.contract_tools.layout import EXAMPLES, Json, read
from deploy.contract_tools.schemas import closed, schema_of
from popfax_contracts.catalogue import MESSAGES, is_declared
from popfax_contracts.message import Event, Refusal
from popfax_contracts.topics import Principal
from services.chassis.messages import Incoming, StoredRecord, decode

_UUID = {"type": "string", "format": "uuid"}
_TEXT = {"type": "string", "minLength": 1, "maxLength": 200}

HEADERS: dict[str, Json] = {
    "title": "Envelope",
    "description": "CloudEvents 1.0 in Kafka's binary mode. The headers' values are UTF-8 text.",
    "type": "object",
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {**_UUID, "description": "The message's own id: whoever has seen it already leaves the record out."},
        "ce_source": {"type": "string", "enum": [f"popfax/{principal}" for principal in Principal]},
        "ce_type": {**_TEXT, "description": "Which message the value is."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it was written."},
        "ce_correlationid": {
            **_TEXT,
            "description": "The command that it is all about: that one's own ce_correlationid, or its ce_id without.",
        },
        "ce_causationid": {**_TEXT, "description": "The message that made this one."},
        "ce_actor": {**_UUID, "description": "The subscriber on whose behalf it is."},
        "ce_requester": {
            "type": "string",
            "enum": [principal.value for principal in Principal],
            "description": "Who asked, if it answers a command. Others may pass it over; anybody may ignore this.",
        },
        "traceparent": {**_TEXT, "description": "The trace that it belongs to (W3C Trace Context)."},
    },
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
}
"""The schema of a record's headers."""

_OURS = re.compile(r"@(?:[a-z0-9-]+\.)*(?:example\.com|popfax\.example)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Example:
    """A record, and the name of the example."""

    type: str
    name: str
    headers: dict[str, str]
    key: str
    value: bytes | None

    @property
    def title(self) -> str:
        """The title by which people find it."""
        return f"{self.type}/{self.name}"

    @property
    def body(self) -> Json:
        """The value as JSON; a tombstone's is None."""
        return None if self.value is None else json.loads(self.value)

    @property
    def topic(self) -> str:
        """The record's topic: its writer's, or the type's first topic if its writer may not write to any."""
        topics = MESSAGES[self.type].TOPICS
        own = (topic.name for topic in topics if f"popfax/{topic.writer}" == self.headers.get("ce_source"))
        return next(own, topics[0].name)

    def record(self) -> StoredRecord:
        """Return the record as read from Kafka. Its type must exist today."""
        headers = [(name, text.encode()) for name, text in self.headers.items()]
        return StoredRecord(UUID(self.headers["ce_id"]), None, self.topic, 0, 0, self.key.encode(), self.value, headers)


def load(root: Path) -> list[Example]:
    """Read every example of a checkout, in the order of types and names."""
    return [_example(path) for path in sorted((root / EXAMPLES).glob("*/*.json"))]


def of(examples: Sequence[Example], type_: str) -> list[Example]:
    """Return the examples of one type."""
    return [example for example in examples if example.type == type_]


def problems(root: Path) -> list[str]:
    """Say which types have no example, and what is wrong with the existing ones."""
    examples = load(root)
    known = [example for example in examples if example.type in MESSAGES]
    shown = {example.type for example in known}
    ids = Counter(example.headers.get("ce_id") for example in examples)
    return [
        *(f"{type_}: has no example" for type_ in sorted(MESSAGES.keys() - shown)),
        *(f"{example.title}: there is no such type" for example in examples if example.type not in MESSAGES),
        *(f"{id_}: is the ce_id of {count} examples" for id_, count in ids.items() if count > 1),
        *(f"{example.title}: {problem}" for example in known for problem in _wrong_with(example)),
    ]


def _example(path: Path) -> Example:
    document = read(path)
    value = document["value"]
    text = None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Example(path.parent.name, path.stem, document["headers"], document["key"], text)


def _wrong_with(example: Example) -> Iterator[str]:
    model = MESSAGES[example.type]
    yield from _breaches(HEADERS, example.headers)
    yield from _breaches(schema_of(model), example.body)
    if example.headers.get("ce_type") != example.type:
        yield f"its ce_type is not {example.type}"
    if example.headers.get("ce_source") not in {f"popfax/{topic.writer}" for topic in model.TOPICS}:
        yield f"its ce_source may not write {' or '.join(topic.name for topic in model.TOPICS)}"
    read_as = decode(example.record(), {model.TYPE.encode(): model}, {example.topic})
    if not isinstance(read_as, Incoming):
        yield f"can't be read: {', '.join(read_as.errors) if read_as else 'unknown type'}"
    elif issubclass(model, Event) and json.loads(read_as.body.to_json() or b"null") != example.body:
        yield "is not what a service writes"
    elif issubclass(model, Refusal) and not is_declared(model, example.body["command_type"], example.body["code"]):
        yield "the command does not say that it is refused like this"
    yield from (f"{text} is not an example domain" for text in _addresses(example.body) if not _OURS.search(text))


def _breaches(schema: Json, document: Json) -> Iterator[str]:
    """Say where a document violates a schema, or has fields that the schema does not name."""
    validator = Draft202012Validator(closed(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)
    return (f"{error.json_path}: {error.message}" for error in validator.iter_errors(document))


def _addresses(document: Json) -> list[str]:
    if isinstance(document, dict):
        return [found for value in document.values() for found in _addresses(value)]
    if isinstance(document, list):
        return [found for value in document for found in _addresses(value)]
    return [document] if isinstance(document, str) and "@" in document else []
