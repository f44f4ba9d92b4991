"""Messages as they travel: CloudEvents 1.0, in (see `envelopes`) and out, in Kafka's binary mode.

A `Record` comes from Kafka, from a timer or from the parked messages; `decode` turns it into an `Incoming`, or says why
it can't. What a handler returns leaves as an `Outgoing`.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from pydantic import ValidationError

from popfax_contracts.codes import MalformedCode
from popfax_contracts.ids import derive, derive_own, message_id
from popfax_contracts.message import Command, Message
from popfax_contracts.topics import BY_NAME, Principal
from services.chassis.envelopes import SPECVERSION, Attributes, id_of, text_of, unusual

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)

BROKEN_PROCESS = (MemoryError, ImportError, OSError)
"""Errors of our own process, whatever the message."""

TIMERS = "timers"
"""The topic of timers' records. No broker has it."""

_NONE: tuple[str, ...] = ()
_POSITIONS = UUID("5b0f9c1e-7d64-5a3b-8f27-6f0c0e9a1d33")


class Record(Protocol):
    """A message's bytes, and where they came from. aiokafka's `ConsumerRecord` is one.

    Headers that can't be read at all are `envelopes.UNREADABLE_HEADERS`. A record from Kafka also has a `timestamp`.
    """

    @property
    def topic(self) -> str:
        """Its topic, or an internal name for what came from no topic."""

    @property
    def partition(self) -> int:
        """The topic's partition."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def key(self) -> bytes | None:
        """Its key; None if it has none."""

    @property
    def value(self) -> bytes | None:
        """Its value; None for a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Its headers, in order; a name may occur twice."""


@dataclass(slots=True)
class StoredRecord:
    """A record from the service's own database: a timer that is due (`due_at`), or a parked message."""

    row_id: UUID
    due_at: datetime | None
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(slots=True)
class Incoming(Generic[M_co]):
    """A decoded message: its body and its envelope.

    `id` is its identity here (`popfax_contracts.ids.message_id`): the inbox stores it, and the ids of whatever the
    message creates are derived from it. `sent_id` is the id that its sender gave it and looks for in answers; None if
    it is the same.
    """

    id: UUID
    body: M_co
    record: Record
    correlation_id: str
    actor: UUID | None = None
    traceparent: str | None = None
    sent_id: str | None = None

    @property
    def writer(self) -> Principal:
        """Return the principal that wrote it: the only one that may write its topic.

        Raises `KeyError` for a timer's message.
        """
        return BY_NAME[self.record.topic].writer

    def derive(self, name: str) -> UUID:
        """Return an id for something that this message creates: the same message creates the same things again."""
        return derive_own(self.id, name)


@dataclass(slots=True)
class Undecodable:
    """A record that can't be handled, with a stable code and the reasons (never the contents).

    It keeps whatever of the envelope can be read, so that the sender can be answered.
    """

    id: UUID
    record: Record
    code: str
    errors: tuple[str, ...]
    command_type: str | None = None
    command_id: str | None = None
    correlation_id: str | None = None
    actor: UUID | None = None
    copy_of: UUID | None = None
    """The identity that it would have if it could be read: a message that was handled under it is the same one."""

    @property
    def key(self) -> UUID | None:
        """Return the record's key if it is an id. Anything else may be personal data."""
        return id_of(self.record.key)


@dataclass(slots=True)
class Outgoing:
    """A message on its way out: an outbox row. What is constant for its type is not stored."""

    id: UUID
    type: str
    key: str
    value: bytes
    correlation_id: str
    causation_id: str
    actor: UUID | None
    traceparent: str | None
    requester: str | None = None


@dataclass(slots=True)
class SetTimer:
    """Asks the shell to pass `message` to its handler at `due_at` or later. Setting an id again moves its timer."""

    id: UUID
    due_at: datetime
    message: Message


@dataclass(slots=True)
class ClearTimer:
    """Asks the shell to delete a timer. It is not an error if that is unknown or has already fired."""

    id: UUID


Effect = Message | SetTimer | ClearTimer
Outcome = Sequence[Effect]
"""What a handler returns: messages to publish and timers to set, in that order on each key."""


def decode(
    record: Record,
    handled: Mapping[bytes, type[Message]],
    own_topics: Container[str],
    to_others: Container[tuple[bytes | None, bytes | None]] = (),
) -> Incoming[Message] | Undecodable | None:
    """Decode a record; return None for what is none of this service's business, on a topic of others' events.

    That is a type that it does not handle, or an answer that only matters to whoever asked: `to_others` has the types
    and requesters of those. On `own_topics`, which carry the service's commands, an unknown type is undecodable.
    """
    given, value = record.headers, record.value
    found, errors = dict(given), _NONE
    content_type = found.get("content-type")
    is_structured = content_type is not None and b"cloudevents" in content_type.lower()
    if is_structured or "ce_type" not in found or len(found) != len(given):
        found, value, errors = unusual(given, value)
    type_ = found.get("ce_type")
    model = handled.get(type_) if type_ else None
    if record.topic not in own_topics:
        if model is None and text_of(type_):
            return None
        if "ce_requester" in found and (type_, found["ce_requester"]) in to_others and not errors:
            return None
    sent_id = text_of(found.get("ce_id"))
    correlation_id = text_of(found["ce_correlationid"]) if "ce_correlationid" in found else sent_id
    actor = id_of(found["ce_actor"]) if "ce_actor" in found else None
    if (
        errors
        or model is None
        or sent_id is None
        or correlation_id is None
        or (actor is None and "ce_actor" in found)
        or found.get("ce_specversion", SPECVERSION) != SPECVERSION
    ):
        code, errors = _wrong_with(found, errors, model)
        return _undecodable(record, found, code, errors)
    belongs = _belongs(model)
    if record.topic not in belongs:
        return _undecodable(
            record, found, MalformedCode.WRONG_TOPIC.value, (f"ce_type: belongs on {' or '.join(belongs)}",)
        )
    try:
        body = model.from_record(record.key, value)
    except BROKEN_PROCESS:
        raise
    except (
        Exception
    ) as error:  # whatever a value makes its validators raise: what can't be read is parked, and never loops
        return _undecodable(record, found, MalformedCode.MALFORMED_COMMAND.value, _reasons(error))
    if record.key != body.key().encode():
        return _undecodable(record, found, MalformedCode.WRONG_KEY.value, (f"key: is not the {model.KEY}",))
    id_ = message_id(record.topic, found.get("ce_source") or b"", found["ce_id"] or b"")
    traceparent = text_of(found["traceparent"]) if "traceparent" in found else None
    return Incoming(id_, body, record, correlation_id, actor, traceparent, sent_id)


@cache
def _belongs(model: type[Message]) -> tuple[str, ...]:
    """Return the names of the topics on which messages of a type are looked for."""
    return tuple(topic.name for topic in model.TOPICS) or (TIMERS,)


def _wrong_with(found: Attributes, errors: tuple[str, ...], model: type[Message] | None) -> tuple[str, tuple[str, ...]]:
    """Return what is wrong with an envelope: the code and the reasons."""
    if not errors and model is None:
        return MalformedCode.UNKNOWN_TYPE.value, (f"ce_type: {'unknown' if found.get('ce_type') else 'missing'}",)
    wrong = {
        "ce_id: no text of 1 to 200 characters": text_of(found.get("ce_id")) is None,
        "ce_correlationid: no text of 1 to 200 characters": (
            "ce_correlationid" in found and text_of(found["ce_correlationid"]) is None
        ),
        "ce_actor: not a UUID": "ce_actor" in found and id_of(found["ce_actor"]) is None,
        "ce_specversion: not 1.0": found.get("ce_specversion", SPECVERSION) != SPECVERSION,
    }
    return MalformedCode.MALFORMED_ENVELOPE.value, errors or tuple(reason for reason, is_so in wrong.items() if is_so)


def outgoing(message: Message, ordinal: int, cause: Incoming[Message]) -> Outgoing:
    """Wrap a message that a handler returned in an envelope, as the `ordinal`-th consequence of its cause."""
    return Outgoing(
        derive(cause.id, str(ordinal)),
        message.TYPE,
        message.key(),
        message.to_json(),
        cause.correlation_id,
        cause.sent_id or str(cause.id),
        cause.actor,
        cause.traceparent,
        _requester(message, cause),
    )


def _requester(message: Message, cause: Incoming[Message]) -> str | None:
    """Return the principal that asked for an answer: the writer of its command's topic. None for anything else."""
    topic = BY_NAME.get(cause.record.topic)
    if topic is None or not topic.commands or type(message) not in _answers(type(cause.body)):
        return None
    return topic.writer


@cache
def _answers(command: type[Message]) -> frozenset[type[Message]]:
    return frozenset(command.outcomes()) if issubclass(command, Command) else frozenset()


class Envelope(Protocol):
    """What headers are built from, in UTF-8: a row of the outbox as the relay reads it."""

    @property
    def id(self) -> bytes:
        """The CloudEvents id."""

    @property
    def type(self) -> bytes:
        """The CloudEvents type."""

    @property
    def correlation_id(self) -> bytes:
        """The correlation id."""

    @property
    def causation_id(self) -> bytes:
        """The id of the message that caused it."""

    @property
    def actor(self) -> bytes | None:
        """The person on whose behalf it is sent."""

    @property
    def traceparent(self) -> bytes | None:
        """The W3C trace context."""

    @property
    def requester(self) -> bytes | None:
        """The principal whose command it answers."""


class _Encoded(NamedTuple):
    id: bytes
    type: bytes
    correlation_id: bytes
    causation_id: bytes
    actor: bytes | None
    traceparent: bytes | None
    requester: bytes | None


def source_of(principal: Principal) -> str:
    """Return the CloudEvents source of the messages that a principal publishes."""
    return f"popfax/{principal.value}"


def headers_of(out: Outgoing, source: str, time: str) -> list[tuple[str, bytes]]:
    """Return the headers of a message that is sent by itself, without an outbox."""
    parts = (out.id, out.type, out.correlation_id, out.causation_id, out.actor, out.traceparent, out.requester)
    encoded: list[Any] = [None if part is None else str(part).encode() for part in parts]
    return headers(_Encoded._make(encoded), source, time.encode())


def headers(out: Envelope, source: str, time: bytes) -> list[tuple[str, bytes]]:
    """Return a record's headers: CloudEvents' attributes and extensions, and the trace context."""
    found = [
        *_constant_headers(source, out.type),
        ("ce_id", out.id),
        ("ce_time", time),
        ("ce_correlationid", out.correlation_id),
        ("ce_causationid", out.causation_id),
    ]
    if out.actor is not None:
        found.append(("ce_actor", out.actor))
    if out.traceparent is not None:
        found.append(("traceparent", out.traceparent))
    if out.requester is not None:
        found.append(("ce_requester", out.requester))
    return found


@lru_cache(maxsize=1024)
def _constant_headers(source: str, type_: bytes) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", SPECVERSION),
        ("ce_source", source.encode()),
        ("ce_type", type_),
    )


def timer_message_id(id_: UUID, due_at: datetime) -> UUID:
    """Return the id of the message that a timer becomes: a different one each time the timer is set."""
    return derive(id_, due_at.isoformat())


def timer_record(
    id_: UUID,
    due_at: datetime,
    type_: str,
    key: str,
    value: bytes,
    correlation_id: str,
    actor: UUID | None,
    traceparent: str | None,
) -> StoredRecord:
    """Return the record that a timer becomes when it is due, with the envelope of the message that set it."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_type", type_.encode()),
        ("ce_id", str(timer_message_id(id_, due_at)).encode()),
        ("ce_correlationid", correlation_id.encode()),
    ]
    if actor is not None:
        headers.append(("ce_actor", str(actor).encode()))
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return StoredRecord(id_, due_at, TIMERS, 0, 0, key.encode(), value, headers)


def position_id(record: Record) -> UUID:
    """Return an id for a record that has no usable one: a hash of its position in Kafka, its time and its bytes.

    The position alone does not identify it: a topic that is deleted and recreated has other records at the same
    positions. A redelivered record is the same in all three.
    """
    if isinstance(record, StoredRecord):
        return record.row_id
    contents = blake2b(digest_size=16)
    for part in (
        record.key,
        record.value,
        *(each for name, text in record.headers for each in (name.encode(errors="backslashreplace"), text)),
    ):
        contents.update(b"-" if part is None else len(part).to_bytes(5, "big") + part)
    place = (
        f"{record.topic}/{record.partition}/{record.offset}/{getattr(record, 'timestamp', 0)}/{contents.hexdigest()}"
    )
    return derive(_POSITIONS, place)


def _undecodable(record: Record, found: Attributes, code: str, errors: tuple[str, ...]) -> Undecodable:
    sent_id = found.get("ce_id")
    return Undecodable(
        position_id(record),
        record,
        code,
        errors,
        text_of(found.get("ce_type")),
        text_of(found.get("ce_id")),
        text_of(found.get("ce_correlationid")),
        id_of(found.get("ce_actor")),
        message_id(record.topic, found.get("ce_source") or b"", sent_id) if text_of(sent_id) and sent_id else None,
    )


def _reasons(error: Exception) -> tuple[str, ...]:
    """Name the fields and the rules that they break, without the input, which may be personal data."""
    if not isinstance(error, ValidationError):
        return (f"value: {type(error).__name__}",)
    found = error.errors(include_input=False, include_context=False, include_url=False)
    return tuple(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['type']}" for e in found[:20])
