"""What the shell asks of a database. PostgreSQL is one (`postgres`), a dictionary is another (`memory`)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar
from uuid import UUID

from popfax_contracts.message import Message
from services.chassis.messages import Incoming, Outgoing, Record, SetTimer, StoredRecord
from services.chassis.rows import Appended, AppendOnly, Changes, Mapped, Rows

K = TypeVar("K")
R = TypeVar("R")

Key = tuple[str, bytes]
"""A topic and a record's key on it: the unit of order, and of parking."""


UNIQUE_VIOLATION = "23505"


class Cause(StrEnum):
    """What is wrong with the world around a service."""

    AWAY = "away"
    """The database can't be reached, is stopping, or an operator ended what we did."""
    LOCKED = "locked"
    """Somebody holds a lock for long: a backup, a migration that waits."""
    CONTENDED = "contended"
    """Every attempt lost a race: deadlocks, serialization failures."""
    SCHEMA = "schema"
    """Tables or columns are not what this version knows."""
    PRIVILEGE = "privilege"
    """Our role may not do what it must."""
    READ_ONLY = "read_only"
    RESOURCES = "resources"
    """The server's disk or memory is full, or its connections are all taken."""
    PROCESS = "process"
    """Our own process is broken: its memory, its files, its deployment."""
    BUG = "bug"
    """Message after message fails, and none succeeds: that is hardly the messages' fault."""
    OTHER = "other"
    """Whatever else a database says. What is not known to be a message's fault is the world's."""


class Outage(Exception):
    """The world is in no state to handle messages. Whoever sees it waits and tries the same again."""

    def __init__(self, detail: str = "", cause: Cause = Cause.AWAY) -> None:
        super().__init__(detail)
        self.cause = cause


class Conflict(Exception):
    """Another transaction was first (deadlock, serialization, a key no longer free). Load and try again."""

    def __init__(self, state: str = "") -> None:
        """`state` is the SQLSTATE."""
        super().__init__(state)
        self.may_be_own = state == UNIQUE_VIOLATION
        """Whether a handler that makes the same row twice looks like this, too: then it never stops."""


class Why(StrEnum):
    """Why a message is parked."""

    UNDECODABLE = "undecodable"
    """It could not be read, and so had no effect: what follows it on its key flows on."""
    FAILED = "failed"
    """Its handler or its saving failed by itself, again and again. Its key is blocked until an operator acts."""
    BEHIND = "behind"
    """It follows a failed one on the same key."""


@dataclass(slots=True)
class Parked:
    """A message on its way into the parked ones."""

    id: UUID
    record: Record
    why: Why
    code: str
    detail: str


class Transaction(Protocol):
    """One database transaction. Everything in it is set-based: lists in, lists out."""

    async def claim_inbox(self, ids: Sequence[UUID], now: datetime) -> Collection[UUID]:
        """Remember message ids; give those that were not known before."""

    async def claim_timers(self, timers: Sequence[tuple[UUID, datetime]]) -> Collection[UUID]:
        """Take timers away, each with the moment for which it was set; give the ids of those that were still so."""

    async def claim_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Take parked messages away; give those that were still there. Keys with none left are unblocked."""

    async def drop_parked(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Take them away as a claim does, and request a retry of what stood behind those that had failed."""

    async def blocked(self, keys: Collection[Key]) -> Collection[Key]:
        """Give the keys that are blocked, and keep them so until this transaction ends."""

    async def park(self, parked: Sequence[Parked], now: datetime) -> None:
        """Keep messages for an operator, in order; a failed one blocks its key."""

    async def require_known_schema(self) -> None:
        """Raise `Outage` unless the database is one that this version knows.

        Before a message is blamed: what its saving failed on may be a schema that was changed under us.
        """

    async def fetch(self, mapped: Mapped[K, R], keys: Iterable[K], *, for_update: bool = True) -> Rows[K, R]:
        """Load rows by key; lock them, in one order for every transaction, unless they are only read."""

    async def keys(self, mapped: Mapped[K, R], among: Mapping[str, Collection[Any]]) -> set[K]:
        """Give the keys of the rows that have, in each of these columns, one of its values; nothing is locked.

        They are for `fetch`, which locks in its one order. A row that appears in between is missed, unless whoever
        makes such rows first locks something that this transaction has locked already.
        """

    async def take(self, mapped: Mapped[K, R], matching: Mapping[str, Any], limit: int) -> Rows[K, R]:
        """Load and lock the first `limit` rows, by key, that match; those that others have locked only at a pinch."""

    def unanswered(self) -> AbstractAsyncContextManager[None]:
        """Open a block of statements that are sent without waiting for each one's answer; only writes, and no reads.

        A failure of any of them is raised at the block's end at the latest.
        """

    def append(self, mapped: AppendOnly[R]) -> Appended[R]:
        """Begin to append to a table."""

    async def save(self, changes: Sequence[Changes]) -> None:
        """Write all that was put, removed and added."""

    async def send(self, messages: Sequence[Outgoing], now: datetime) -> None:
        """Append messages to the outbox, in order."""

    async def set_timers(self, timers: Sequence[tuple[SetTimer, Incoming[Message]]]) -> None:
        """Set or move timers; each carries its cause's envelope on."""

    async def clear_timers(self, ids: Sequence[UUID]) -> None:
        """Forget timers."""


class Database(Protocol):
    """A service's own database."""

    def begin(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction: committed at the end of the block, rolled back on any exception.

        Raises `Outage` and `Conflict` for what is not the batch's fault.
        """

    async def due_timers(self, now: datetime, limit: int) -> Sequence[StoredRecord]:
        """Give timers that are due, oldest first, without locking them."""

    async def request_retry(self, ids: Collection[UUID]) -> None:
        """Ask, as an operator, for parked messages to be handled again.

        One that stands in the line of its key asks for the whole key, until nothing is left on it or one fails again:
        the oldest first, and whatever joins the line meanwhile.
        """

    async def requested_retries(self, limit: int) -> Sequence[StoredRecord]:
        """Give the next of them, at most `limit`: the oldest of each key, of several keys side by side."""

    async def retry_failed(self, id_: UUID, code: str, detail: str) -> None:
        """Note that a parked message failed again; it, and its key, wait for an operator once more."""
