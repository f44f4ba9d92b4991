"""Messages as they travel: CloudEvents 1.0 in Kafka's binary mode, in and out.

A `Record` is what came, from Kafka, from a timer or from the parked messages; `decode` makes it an `Incoming`, or says
why it can't. What a handler returns leaves as an `Outgoing`.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import ValidationError

from contracts.ids import derive
from contracts.message import Message
from contracts.topics import BY_NAME, Principal

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)

BROKEN_PROCESS = (MemoryError, ImportError, OSError)
"""What is our own process' fault, whichever message is at hand."""

TIMERS = "timers"
"""The topic that a timer's record names. It exists in no broker."""

_POSITIONS = UUID("5b0f9c1e-7d64-5a3b-8f27-6f0c0e9a1d33")


class Record(Protocol):
    """A message's bytes, and where they came from. aiokafka's `ConsumerRecord` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(slots=True)
class StoredRecord:
    """A record that comes out of the service's own database: a timer that is due (`due_at`), or a parked message."""

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
    """A decoded message: its body, and what the envelope says of it."""

    id: UUID
    body: M_co
    record: Record
    correlation_id: str
    actor: UUID | None = None
    traceparent: str | None = None

    @property
    def writer(self) -> Principal:
        """Who wrote it: the one that the broker lets write its topic. A timer's has none, and raises `KeyError`."""
        return BY_NAME[self.record.topic].writer

    def derive(self, name: str) -> UUID:
        """Give an id for something that this message makes: the same message makes the same things again."""
        return derive(self.id, name)


@dataclass(slots=True)
class Undecodable:
    """A record that can't be handled as it is, with a stable code and the reasons (never the contents)."""

    id: UUID
    record: Record
    code: str
    errors: tuple[str, ...]
    command_type: str | None = None
    command_id: UUID | None = None
    correlation_id: str | None = None


@dataclass(slots=True)
class Outgoing:
    """A message on its way out: an outbox row. What is constant for its type is not stored with it."""

    id: UUID
    type: str
    key: str
    value: bytes
    correlation_id: str
    causation_id: str
    actor: UUID | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Asks the shell to hand `message` to its handler at `due_at`, or later. Setting an id again moves its timer."""

    id: UUID
    due_at: datetime
    message: Message


@dataclass(frozen=True, slots=True)
class ClearTimer:
    """Asks the shell to forget a timer. One that is unknown, or fired already, is no error."""

    id: UUID


Effect = Message | SetTimer | ClearTimer
Outcome = Sequence[Effect]
"""What a handler returns: messages to publish and timers to set, in that order on each key."""


def decode(
    record: Record, handled: Mapping[bytes, type[Message]], own_topics: Container[str]
) -> Incoming[Message] | Undecodable | None:
    """Read a record; None means that it is somebody else's type on a topic that others write, and none of ours.

    On `own_topics`, the service's commands, nothing is none of ours: what is not known there is undecodable.
    """
    headers = dict(record.headers)
    type_ = headers.get("ce_type")
    model = handled.get(type_) if type_ else None
    if model is None:
        if _text(type_) and record.topic not in own_topics:
            return None
        return _undecodable(record, headers, "unknown_type", (f"ce_type: {'unknown' if type_ else 'missing'}",))
    id_ = _uuid(headers.get("ce_id"))
    if id_ is None:
        return _undecodable(record, headers, "malformed_envelope", ("ce_id: not a UUID",))
    belongs = [topic.name for topic in model.TOPICS] or [TIMERS]
    if record.topic not in belongs:
        return _undecodable(record, headers, "wrong_topic", (f"ce_type: belongs on {' or '.join(belongs)}",))
    try:
        body = model.from_record(record.key, record.value)
    except BROKEN_PROCESS:
        raise
    except Exception as error:  # whatever a value does to its validators: what can't be read is parked, and never loops
        return _undecodable(record, headers, "malformed_command", _reasons(error))
    if record.key != body.key().encode():
        return _undecodable(record, headers, "wrong_key", (f"key: is not the {model.KEY}",))
    actor = headers.get("ce_actor")
    return Incoming(
        id_,
        body,
        record,
        _text(headers.get("ce_correlationid")) or str(id_),
        _uuid(actor) if actor is not None else None,
        _text(headers.get("traceparent")),
    )


def outgoing(message: Message, ordinal: int, cause: Incoming[Message]) -> Outgoing:
    """Put a message that a handler returned into an envelope, as the `ordinal`-th consequence of its cause."""
    return Outgoing(
        derive(cause.id, str(ordinal)),
        message.TYPE,
        message.key(),
        message.to_json(),
        cause.correlation_id,
        str(cause.id),
        cause.actor,
        cause.traceparent,
    )


class Envelope(Protocol):
    """What headers are made of: an `Outgoing`, or an outbox row, whose ids are text already."""

    @property
    def id(self) -> UUID | str: ...
    @property
    def type(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...
    @property
    def causation_id(self) -> str: ...
    @property
    def actor(self) -> UUID | str | None: ...
    @property
    def traceparent(self) -> str | None: ...


def headers_of(out: Envelope, source: str, time: str) -> list[tuple[str, bytes]]:
    """Give the headers of a record: CloudEvents' own, the extensions, and the trace that it belongs to."""
    headers = [
        *_constant_headers(source, out.type),
        ("ce_id", str(out.id).encode()),
        ("ce_time", time.encode()),
        ("ce_correlationid", out.correlation_id.encode()),
        ("ce_causationid", out.causation_id.encode()),
    ]
    if out.actor is not None:
        headers.append(("ce_actor", str(out.actor).encode()))
    if out.traceparent is not None:
        headers.append(("traceparent", out.traceparent.encode()))
    return headers


@lru_cache(maxsize=1024)
def _constant_headers(source: str, type_: str) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source.encode()),
        ("ce_type", type_.encode()),
    )


def timer_message_id(id_: UUID, due_at: datetime) -> UUID:
    """Give the id of the message that a timer becomes: another one each time the timer is set anew."""
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
    """Make the record that a timer becomes when it is due, with the envelope of what set it."""
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
    """Give an id for a record that has none of its own: where it stands in Kafka, which no other record does."""
    if isinstance(record, StoredRecord):
        return record.row_id
    return derive(_POSITIONS, f"{record.topic}/{record.partition}/{record.offset}")


def _undecodable(
    record: Record, headers: Mapping[str, bytes | None], code: str, errors: tuple[str, ...]
) -> Undecodable:
    return Undecodable(
        position_id(record),
        record,
        code,
        errors,
        _text(headers.get("ce_type")),
        _uuid(headers.get("ce_id")),
        _text(headers.get("ce_correlationid")),
    )


def _reasons(error: Exception) -> tuple[str, ...]:
    """Name the fields and the rules they break. Input is left out: it may be personal."""
    if not isinstance(error, ValidationError):
        return (f"value: {type(error).__name__}",)
    found = error.errors(include_input=False, include_context=False, include_url=False)
    return tuple(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['type']}" for e in found[:20])


def _text(value: bytes | None) -> str | None:
    if value is None or len(value) > 200:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text and "\x00" not in text else None  # PostgreSQL's text can't hold a NUL


def _uuid(value: bytes | None) -> UUID | None:
    if value is None or len(value) != 36:
        return None
    try:
        return UUID(value.decode())
    except ValueError:  # UnicodeDecodeError is one
        return None
