"""What a service tells the plumbing of itself: its topics, its handlers, how its state is loaded."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from popfax_contracts.message import MalformedCommand, Message
from popfax_contracts.topics import Principal, Topic
from services.chassis.database import Transaction
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import Changes


@dataclass(frozen=True, slots=True)
class Moment:
    """What a handler may know of the world: the time, and randomness. Both come from the shell."""

    now: datetime
    token_bytes: Callable[[int], bytes]
    """Gives so many bytes that nobody can guess."""
    stamp: str = field(init=False)
    """The time as text, to the millisecond: made once for a whole batch."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", self.now.isoformat(timespec="milliseconds"))


class State(Protocol):
    """What a batch touches of a service's data."""

    def changes(self) -> Sequence[Changes]:
        """Give all tables to be saved, in the order in which they must be."""


Handler = Callable[[Any, Incoming[Any], Moment], Outcome]
"""A pure function of (state, message, moment): changes the state, returns messages and timers. No I/O, no catching."""

Load = Callable[[Transaction, Sequence[Incoming[Message]]], Awaitable[State]]
"""Loads all state that a batch of messages touches, with few set-based queries."""


def tell(state: Any, message: Incoming[MalformedCommand], moment: Moment) -> Outcome:
    """Tell a command's sender that it could not be read."""
    return [message.body]


@dataclass(frozen=True)
class Service:
    """A service, as far as the plumbing is concerned.

    `malformed` answers a command that can't be read. It is handed to `refuse`, which publishes it.
    """

    principal: Principal
    topics: tuple[Topic, ...]
    handlers: Mapping[type[Message], Handler]
    load: Load
    malformed: type[MalformedCommand]
    refuse: Handler = tell
    command_topics: frozenset[str] = field(init=False)
    """The names of the topics on which it is asked for something: it answers whatever comes there."""

    def __post_init__(self) -> None:
        """Refuse what could never work: a topic that the service may not read, a handler for a topic it doesn't."""
        for topic in self.topics:
            if self.principal not in topic.readers:
                raise TypeError(f"{self.principal} may not read {topic.name}")
        for model in self.handlers:
            if not set(model.TOPICS) <= set(self.topics):
                raise TypeError(f"{self.principal} handles {model.__name__} but does not subscribe to its topics")
        names = frozenset(topic.name for topic in self.topics if topic.commands)
        object.__setattr__(self, "command_topics", names)
