"""What every message is: a frozen model with a stable type, a topic, and a key.

The envelope (id, time, correlation, causation, actor) is CloudEvents' and travels in headers; a model is the value.
"""

from typing import Annotated, Any, ClassVar, Self, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from popfax_contracts.ids import derive
from popfax_contracts.topics import Principal, Topic

_GROUP_OF_OWNER = UUID("8d4c1a52-3a7e-5f0e-9a44-0f6c2b1d7e90")


class Message(BaseModel):
    """A message's value. A reader ignores fields that it does not know: within a version, additions are optional.

    `TYPE` is the CloudEvents type, `TOPICS` where it is published, one topic for each principal that may; a timer's has
    none, for it never leaves its service. `KEY` is the field that holds the aggregate's id, by which Kafka keeps order.
    A `TOMBSTONE` has no value at all: its key says everything, and compaction removes what the topic held for it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_enum_values=False)

    TYPE: ClassVar[str]
    TOPICS: ClassVar[tuple[Topic, ...]] = ()
    KEY: ClassVar[str]
    TOMBSTONE: ClassVar[bool] = False

    def __init_subclass__(cls, **_: Any) -> None:
        """Let the class statement's words through to where pydantic is done with the fields."""
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, type: str = "", topic: Topic | tuple[Topic, ...] = (), key: str = "", tombstone: bool = False, **_: Any
    ) -> None:
        """Take what the class statement says: `class ReserveUnits(Command, type=…, topic=…, key=…)`."""
        if not type:
            return  # Command, Event, Refusal: the kinds themselves
        if key not in cls.model_fields:
            raise TypeError(f"{cls.__name__} has no field {key!r} to be its key")
        topics = topic if isinstance(topic, tuple) else (topic,)
        if tombstone and (list(cls.model_fields) != [key] or not topics or not all(each.compacted for each in topics)):
            raise TypeError(f"{cls.__name__} is a tombstone: a key on a compacted topic, and nothing else")
        cls.TYPE, cls.TOPICS, cls.KEY, cls.TOMBSTONE = type, topics, key, tombstone

    @classmethod
    def topic_of(cls, writer: Principal) -> Topic:
        """Return the topic on which a principal publishes it. Raises `TypeError` when it may not."""
        for topic in cls.TOPICS:
            if topic.writer is writer:
                return topic
        raise TypeError(f"{writer} may not send {cls.__name__}")

    def key(self) -> str:
        """Give the record's key: the aggregate's id."""
        return str(getattr(self, self.KEY))

    def to_json(self) -> bytes:
        """Give the record's value; a tombstone's is empty, and travels as none."""
        return b"" if self.TOMBSTONE else self.__pydantic_serializer__.to_json(self)

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read a record's value; raises pydantic's `ValidationError`."""
        return cast(Self, cls.__pydantic_validator__.validate_json(value))

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None) -> Self:
        """Read a record; raises pydantic's `ValidationError`, and `ValueError` for a tombstone that has a value."""
        if not cls.TOMBSTONE:
            return cls.from_json(value or b"")
        if value:
            raise ValueError("a tombstone has no value")
        return cls.model_validate_strings({cls.KEY: (key or b"").decode()})


class Command(Message):
    """Asks a service to do something. It is done or refused, and an event says which."""


class Event(Message):
    """Says what happened. It can't be refused."""


class Marker(Event):
    """Says nothing. It is appended to every partition of a compacted topic, which Kafka would not compact otherwise.

    A tombstone whose key is no aggregate's, one for each partition: whoever keeps a topic by its keys finds nothing to
    remove, and a reader who looks at types leaves it out.
    """

    marker_id: UUID


class Refusal(Event):
    """Says that a command changed nothing, and why.

    `code` is stable and meant for programs; `command_type` is the type of the command that was refused. The record
    carries that command's `correlationid`.
    """

    code: str
    command_type: str


class MalformedCommand(Refusal):
    """A command could not be read, and had no effect.

    Its code is `malformed_command` (the value), `malformed_envelope`, `unknown_type`, `wrong_topic` or `wrong_key` (the
    record's key is not the field that the contract names). `errors` names the fields, never their contents. The record
    itself is kept, to the byte, among the service's parked messages, as `parked_id`.

    It is told whenever anything of the command says which it was: `command_id` is the id as it was sent, `command_key`
    the record's key if that is an id; the `correlationid` is the command's own, or else its id, or else `parked_id`.
    `command_type` is empty where it could not be read.
    """

    parked_id: UUID
    command_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    command_key: UUID | None = None
    errors: tuple[str, ...] = ()


def group_of(owner_id: UUID) -> UUID:
    """Give the id of the one group that a subscriber owns: derived, so that nobody has to ask for it."""
    return derive(_GROUP_OF_OWNER, owner_id.bytes.hex())
