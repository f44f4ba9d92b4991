"""What every message is: a frozen model with a stable type, its topics, and a key.

The envelope (id, time, correlation, causation, actor) is a CloudEvents envelope and travels in the record's headers. A
model is the record's value.
"""

from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

from popfax_contracts.codes import RefusalCode
from popfax_contracts.ids import derive
from popfax_contracts.topics import Principal, Topic

_GROUP_OF_OWNER = UUID("8d4c1a52-3a7e-5f0e-9a44-0f6c2b1d7e90")


class Message(BaseModel):
    """A message's value. Readers ignore fields that they do not know: within a version, additions are optional.

    `TYPE` is the CloudEvents type. `TOPICS` are the topics on which it is published, one for each principal that may; a
    timer's message has none, because it never leaves its service. `KEY` is the field that holds the aggregate's id, by
    which Kafka keeps order. A `TOMBSTONE` has no value: compaction removes what the topic held under its key.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_enum_values=False)

    TYPE: ClassVar[str]
    TOPICS: ClassVar[tuple[Topic, ...]] = ()
    KEY: ClassVar[str]
    TOMBSTONE: ClassVar[bool] = False

    def __init_subclass__(cls, **_: Any) -> None:
        """Let the class statement's keywords through to `__pydantic_init_subclass__`."""
        super().__init_subclass__()

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, type: str = "", topic: Topic | tuple[Topic, ...] = (), key: str = "", tombstone: bool = False, **_: Any
    ) -> None:
        """Take what the class statement says: `class UnitsReserved(Event, type=…, topic=…, key=…)`."""
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
        """Return the topic on which a principal publishes this message. Raises `TypeError` if it may not."""
        for topic in cls.TOPICS:
            if topic.writer is writer:
                return topic
        raise TypeError(f"{writer} may not send {cls.__name__}")

    def key(self) -> str:
        """Return the record's key: the aggregate's id."""
        return str(getattr(self, self.KEY))

    def to_json(self) -> bytes:
        """Return the record's value. A tombstone's is empty, and is published as null."""
        return b"" if self.TOMBSTONE else self.__pydantic_serializer__.to_json(self)

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read a record's value. Raises pydantic's `ValidationError`."""
        return cast(Self, cls.__pydantic_validator__.validate_json(value))

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None) -> Self:
        """Read a record. Raises pydantic's `ValidationError`, and `ValueError` for a tombstone that has a value."""
        if not cls.TOMBSTONE:
            return cls.from_json(value or b"")
        if value:
            raise ValueError("a tombstone has no value")
        return cls.model_validate_strings({cls.KEY: (key or b"").decode()})


class Event(Message):
    """Says what happened. It can't be refused."""


class Marker(Event):
    """Says nothing. One is appended to each partition of a compacted topic, which Kafka would not compact otherwise.

    It is a tombstone under a key that no aggregate has, one key per partition: a reader that keeps the topic by its
    keys finds nothing to remove, and a reader that looks at types leaves it out.
    """

    marker_id: UUID


class Refusal(Event):
    """Says that a command changed nothing, and why.

    `code` is stable and meant for programs: one of the command's `CODES`, or one that is new to the reader.
    `command_type` is the type of the command that was refused. The record carries that command's `correlationid`.
    """

    code: str
    command_type: str


class MalformedCommand(Refusal):
    """A command could not be read, and had no effect.

    `code` is a `MalformedCode`. `errors` names the fields and the rules that they break, never their contents. The
    record is kept, byte for byte, among the service's parked messages as `parked_id`.

    It is published if anything in the record identifies the command: `command_id` is the id as it was sent,
    `command_key` the record's key if that is a UUID. The `correlationid` is the command's own, or else its id, or else
    `parked_id`. `command_type` is empty if it could not be read.
    """

    parked_id: UUID
    command_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    command_key: UUID | None = None
    errors: tuple[str, ...] = ()


class Command(Message):
    """Asks a service to do something. One event with the command's `correlationid` says whether it was done.

    Any one of `ANSWERS` means that it was done; there may be other events with it. `REFUSAL` means that nothing was
    changed, and carries one of `CODES`, which are checked in their order. A command that can't be read is answered by
    its service's `MalformedCommand`. Without `ANSWERS` nothing answers.
    """

    ANSWERS: ClassVar[tuple[type[Event], ...]]
    REFUSAL: ClassVar[type[Refusal] | None]
    CODES: ClassVar[tuple[RefusalCode, ...]]

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        type: str = "",
        answers: tuple[type[Event], ...] | None = None,
        refusal: type[Refusal] | None = None,
        codes: tuple[RefusalCode, ...] = (),
        **rest: Any,
    ) -> None:
        """Take what the class statement says: `class ReserveUnits(Command, …, answers=…, refusal=…, codes=…)`."""
        super().__pydantic_init_subclass__(type=type, **rest)
        if not type:
            return  # what several commands have in common
        if answers is None:
            raise TypeError(f"{cls.__name__} does not say what answers it")
        if bool(codes) != (refusal is not None) or len(set(codes)) != len(codes):
            raise TypeError(f"{cls.__name__} is refused by an event, with codes, each named once")
        cls.ANSWERS, cls.REFUSAL, cls.CODES = answers, refusal, codes
        services = {topic.service for model in (cls, *cls.outcomes()) for topic in model.TOPICS}
        if len(services) != 1:
            raise TypeError(f"{cls.__name__} is not answered by the service that it is sent to")

    @classmethod
    def outcomes(cls) -> tuple[type[Event], ...]:
        """Return every event that may answer it, the refusal last."""
        return cls.ANSWERS if cls.REFUSAL is None else (*cls.ANSWERS, cls.REFUSAL)

    @classmethod
    def outcomes_in_words(cls) -> str:
        """Return what answers it in Markdown, each code with its meaning."""
        if not cls.ANSWERS:
            return "Nothing answers it."
        answered = f"Answered by {' or '.join(f'`{model.__name__}`' for model in cls.ANSWERS)}."
        if cls.REFUSAL is None:
            return answered
        codes = "".join(f"\n- `{code}`: {code.meaning}" for code in cls.CODES)
        return f"{answered} Refused by `{cls.REFUSAL.__name__}`, with the first of these codes that applies:\n{codes}"


@lru_cache(maxsize=8192)  # the same few people act again and again
def group_of(owner_id: UUID) -> UUID:
    """Return the id of the one group that a subscriber owns. It is derived, so that nobody has to ask for it."""
    return derive(_GROUP_OF_OWNER, owner_id.bytes.hex())
