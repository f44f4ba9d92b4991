"""What a service tells the chassis about itself: its topics, its handlers, how its state is loaded."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Command, MalformedCommand, Message
from popfax_contracts.topics import SERVICES, Principal, Topic
from services.chassis.alarms import Alarm
from services.chassis.database import Transaction
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import Changes
from services.chassis.waiting import Waiting

M = TypeVar("M", bound=Message)
S = TypeVar("S")
L = TypeVar("L")
T = TypeVar("T")
N = TypeVar("N")
S_contra = TypeVar("S_contra", contravariant=True)
L_contra = TypeVar("L_contra", contravariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
N_contra = TypeVar("N_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a handler may know of the outside world: the time, and randomness. Both come from the shell."""

    now: datetime
    token_bytes: Callable[[int], bytes]
    """Returns that many unguessable bytes."""
    stamp: str = field(init=False)
    """The time as text, to the millisecond, formatted once for a whole batch."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", self.now.isoformat(timespec="milliseconds"))


class State(Protocol):
    """The part of a service's data that a batch touches."""

    def changes(self) -> Sequence[Changes]:
        """Return the tables' changes in the order in which they must be saved."""


class LoadPlan(Protocol):
    """The part of a service's data that a batch needs: named by its handlers' needs, then fetched."""

    async def fetch(self, tx: Transaction) -> State:
        """Fetch and lock everything, with few set-based queries and in a fixed order of tables."""


@dataclass(frozen=True, slots=True)
class Handler(Generic[S_contra, L_contra, T_contra, N_contra]):
    """A function that decides, together with what it needs.

    `handle` is a pure function of (state, subject, moment): it changes the state and returns messages and timers. It
    does no I/O and catches nothing. `needs` names every row that `handle` may read; reading another one raises
    `NotLoaded`. The subject is a message or, for a local step of a saga, the saga's row.
    """

    handle: Callable[[S_contra, T_contra, Moment], Outcome]
    needs: Callable[[L_contra, N_contra], None]
    once_by: str | None = None
    """The row by which it knows a repetition, however late and whatever came between: that changes nothing, and returns
    the same messages again or fewer. Its messages need no row of the inbox then; None if they do."""

    def __call__(self, state: S_contra, subject: T_contra, moment: Moment) -> Outcome:
        """Decide."""
        return self.handle(state, subject, moment)


def needs(named: Callable[[L, N], None]) -> Callable[[Callable[[S, T, Moment], Outcome]], Handler[S, L, T, N]]:
    """Declare what a handler needs: `@needs(named)`, where `named` is the function just above that names the rows.

    That both take the same subject is checked where the handler is entered into a table of contents.
    """
    return lambda handle: Handler(handle, named)


def nothing(load: Any, subject: Any) -> None:
    """Name nothing, for a handler that reads no rows."""


AnyHandler = Handler[Any, Any, Any, Any]
Entry = tuple[type[Message], AnyHandler]


def handles(model: type[M], handler: Handler[S, L, Incoming[M], Incoming[M]], once_by: str | None = None) -> Entry:
    """Return an entry of a table of contents. A handler of another message is a type error.

    `once_by` names the row by which the handler knows a repetition of the message: see `Handler.once_by`.
    """
    return model, replace(handler, once_by=once_by)


def contents(*entries: Entry) -> dict[type[Message], AnyHandler]:
    """Return a table of contents. Raises `TypeError` if a message occurs twice."""
    table = dict(entries)
    if len(table) != len(entries):
        raise TypeError("a message has two handlers")
    return table


@needs(nothing)
def tell(state: Any, message: Incoming[MalformedCommand], moment: Moment) -> Outcome:
    """Tell a command's sender that it could not be read."""
    return [message.body]


def _awaited_by(principal: Principal) -> Iterator[Topic]:
    """Yield the topics on which other services ask a principal, or answer it."""
    for command in MESSAGES.values():
        if issubclass(command, Command) and command.ANSWERS:
            (asked,) = {topic.service for topic in command.TOPICS}
            writers = {topic.writer for topic in command.TOPICS} - {asked, Principal.PLATFORM}
            if asked is principal:
                yield from (topic for topic in command.TOPICS if topic.writer in writers)
            elif principal in writers:
                yield from (topic for answer in command.ANSWERS for topic in answer.TOPICS)


@dataclass(frozen=True)
class Service:
    """A service, as far as the chassis is concerned.

    `malformed` answers a command that can't be read. It is passed to `refuse`, which publishes it.
    """

    principal: Principal
    topics: tuple[Topic, ...]
    handlers: Mapping[type[Message], AnyHandler]
    load: Callable[[], LoadPlan]
    """Creates a load plan that names nothing yet."""
    malformed: type[MalformedCommand]
    refuse: AnyHandler = tell
    for_requester: frozenset[type[Message]] = frozenset()
    """Answers that only matter to the principal that asked: one that names another is passed over, undecoded. To be
    here, a type's handler must do nothing with an answer to another's command.
    """
    alarms: Sequence[Alarm[Any]] = ()
    """What happens at a moment that a row has itself."""
    sagas: Sequence[str] = ()
    """The names of the sagas that it runs."""
    waits: Sequence[Waiting] = ()
    """What waits in its own tables; the chassis's are the same everywhere."""
    by_row: frozenset[type[Message]] = field(init=False)
    """The messages that have no row of the inbox: their handlers know a repetition by a row of the business."""
    command_topics: frozenset[str] = field(init=False)
    """The names of its command topics, on which it answers whatever arrives."""
    entries: frozenset[str] = field(init=False)
    """The names of the topics on which something begins: commands of the platform, and of people."""
    awaited: frozenset[str] = field(init=False)
    """The names of the topics on which something goes on: commands of other services that it answers, and answers of
    theirs.
    """

    def __post_init__(self) -> None:
        """Raise for what could never work: topics that it may not read, or handlers for topics that it doesn't."""
        for topic in self.topics:
            if self.principal not in topic.readers:
                raise TypeError(f"{self.principal} may not read {topic.name}")
        for model in self.handlers:
            if not set(model.TOPICS) <= set(self.topics):
                raise TypeError(f"{self.principal} handles {model.__name__} but does not subscribe to its topics")
        by_row = frozenset(model for model, handler in self.handlers.items() if handler.once_by is not None)
        for model in by_row:
            # A client may use one id for two commands, of which the first counts: only the inbox tells them apart.
            if not model.TOPICS or any(topic.writer not in SERVICES for topic in model.TOPICS):
                raise TypeError(f"{model.__name__} has senders that choose ids: its messages need the inbox")
        names = frozenset(topic.name for topic in self.topics if topic.commands)
        object.__setattr__(self, "command_topics", names)
        outside = (Principal.PLATFORM, self.principal)
        entries = frozenset(topic.name for topic in self.topics if topic.commands and topic.writer in outside)
        object.__setattr__(self, "entries", entries)
        awaited = frozenset(topic.name for topic in _awaited_by(self.principal) if topic in self.topics)
        object.__setattr__(self, "awaited", awaited)
        object.__setattr__(self, "by_row", by_row)

    def handler(self, message: Incoming[Message]) -> AnyHandler:
        """Return a message's handler; for a command that can't be read it is `refuse`."""
        return self.handlers.get(type(message.body), self.refuse)

    async def state(self, tx: Transaction, batch: Iterable[Incoming[Message]]) -> State:
        """Fetch everything that a batch's handlers need."""
        load = self.load()
        for message in batch:
            self.handler(message).needs(load, message)
        return await load.fetch(tx)
