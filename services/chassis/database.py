"""What the shell needs of a database. It is implemented by PostgreSQL (`postgres`) and a dictionary (`memory`)."""

from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from popfax_contracts.message import Message
from services.chassis.alarms import Alarm
from services.chassis.messages import Incoming, Outgoing, Record, SetTimer, StoredRecord
from services.chassis.rows import Appended, AppendOnly, Changes, Mapped, Rows

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

Among: TypeAlias = Mapping[str, Collection[Any]]
"""A set of rows: in each of these columns, a row has one of the values."""

Key = tuple[str, bytes]
"""A topic and a record's key on it: the unit of order, and of parking."""


UNIQUE_VIOLATION = "23505"


class Cause(StrEnum):
    """What is wrong with the world around a service, rather than with a message."""

    AWAY = "away"
    """The database can't be reached, is stopping, or an operator ended our session."""
    LOCKED = "locked"
    """Somebody has been holding a lock for long: a backup, or a migration that is waiting."""
    CONTENDED = "contended"
    """Every attempt lost a race: deadlocks, serialization failures."""
    SCHEMA = "schema"
    """Tables or columns are not those that this version knows."""
    PRIVILEGE = "privilege"
    """Our role lacks a privilege that it needs."""
    READ_ONLY = "read_only"
    RESOURCES = "resources"
    """The server's disk or memory is full, or its connections are all taken."""
    PROCESS = "process"
    """Our own process is broken: its memory, its files, its deployment."""
    BUG = "bug"
    """Message after message fails and none succeeds, which is hardly the messages' fault."""
    OTHER = "other"
    """Any other error of the database. What is not known to be a message's fault is blamed on the world."""


class Outage(Exception):
    """Messages can't be handled at the moment. The caller waits and retries the same."""

    def __init__(self, detail: str = "", cause: Cause = Cause.AWAY) -> None:
        super().__init__(detail)
        self.cause = cause


class Conflict(Exception):
    """Another transaction was first (deadlock, serialization failure, duplicate key). Load and try again."""

    def __init__(self, state: str = "") -> None:
        """`state` is the SQLSTATE."""
        super().__init__(state)
        self.state = state
        self.may_be_own = state == UNIQUE_VIOLATION
        """Whether a handler that inserts the same row twice would look like this too; retrying would then never end."""


class Why(StrEnum):
    """Why a message is parked."""

    UNDECODABLE = "undecodable"
    """It could not be read and had no effect, so what follows on its key flows on."""
    FAILED = "failed"
    """Handling or saving it failed repeatedly, for reasons of its own. Its key is blocked until an operator acts."""
    BEHIND = "behind"
    """It follows a failed one on the same key."""


@dataclass(slots=True)
class Parked:
    """A message that is about to be parked."""

    id: UUID
    record: Record
    why: Why
    code: str
    detail: str


class Ready(Generic[T]):
    """An answer that needs no statement."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, T]:
        """Return it at once."""
        return self._value
        yield


class Later(Generic[T]):
    """An answer for which something is still to be done, or asked: `more` is called when it is awaited."""

    __slots__ = ("_more",)

    def __init__(self, more: Callable[[], Awaitable[T]]) -> None:
        self._more = more

    def __await__(self) -> Generator[Any, Any, T]:
        """Do it, and wait."""
        return self._more().__await__()


class Transaction(Protocol):
    """One database transaction. Everything in it is set-based: lists in, lists out.

    What returns an `Awaitable` is asked at once, and waited for when that is awaited: several questions that are asked
    before the first one is awaited travel together. They are answered in their order. What is written travels with
    the next question, or with the commit; its failure is raised there at the latest.
    """

    def claim_inbox(
        self, ids: Sequence[UUID], now: datetime, looked_up: Sequence[UUID] = ()
    ) -> Awaitable[Collection[UUID]]:
        """Record message ids; return those that were not known before, also of those that are only `looked_up`."""

    def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> Awaitable[Collection[UUID]]:
        """Remove timers, each with the moment for which it was set; return the ids of those that were still set so."""

    async def claim_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove parked messages; return those that were still there. Keys with none left are unblocked."""

    async def drop_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Remove messages as a claim does, and request a retry of what was parked behind those that had failed."""

    def blocked(self, keys: Iterable[Key]) -> Awaitable[Collection[Key]]:
        """Return those of the keys that are blocked; they stay blocked until this transaction ends."""

    async def park(self, parked: Sequence[Parked], now: datetime) -> None:
        """Keep messages for an operator, in order, and record their ids in the inbox; a failed one blocks its key."""

    async def require_known_schema(self) -> None:
        """Raise `Outage` unless the database is one that this version knows.

        Called before a message is blamed: saving it may have failed because the schema was changed under us.
        """

    def fetch(
        self, mapped: Mapped[K, R], keys: Iterable[K], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[K, R]]:
        """Load rows by key and by sets; lock them, in one order for every transaction, unless they are only read.

        A row that enters a set meanwhile is missed, unless every transaction that inserts such rows first locks
        something that this transaction has already locked.
        """

    def keys(self, mapped: Mapped[K, R], among: Among) -> Awaitable[set[K]]:
        """Return the keys of the rows of a set; nothing is locked."""

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load and lock the first `limit` matching rows by key, preferring rows not locked by others."""

    def append(self, mapped: AppendOnly[R]) -> Appended[R]:
        """Begin to append to a table."""

    async def save(self, changes: Sequence[Changes]) -> None:
        """Write all that was put, removed and added."""

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append messages to the outbox, in order."""

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Message]]]) -> None:
        """Set or move timers; each keeps the envelope of its cause."""

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        """Forget timers."""


class Database(Protocol):
    """A service's own database."""

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction: committed at the end of the block, rolled back on any exception.

        Raises `Outage` or `Conflict` if the batch is not to blame.
        """

    async def due_timers(self, now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return timers that are due, oldest first, without locking them."""

    async def next_timer(self) -> datetime | None:
        """Return the moment at which the next timer is due, or was; None if none is set."""

    async def due_alarms(self, alarms: Sequence[Alarm[Any]], now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Return what is due of rows, the oldest of each alarm first and at most `limit` of each; nothing is locked."""

    async def next_alarm(self, alarms: Sequence[Alarm[Any]]) -> datetime | None:
        """Return the moment at which the next row is due, or was; None if no row waits."""

    async def request_retry(self, ids: Collection[UUID]) -> None:
        """Request, for an operator, that parked messages be handled again.

        A message in the line of its key requests the whole key: oldest first, including whatever joins the line
        meanwhile, until nothing is left or one fails again.
        """

    async def requested_retries(self, limit: int) -> Sequence[StoredRecord]:
        """Return the next requested retries, at most `limit`: the oldest of each key, several keys side by side."""

    async def retry_failed(self, id_: UUID, code: str, detail: str) -> None:
        """Record that a parked message failed again; it and its key wait for an operator once more."""
