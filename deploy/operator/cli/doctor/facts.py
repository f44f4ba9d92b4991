"""What the doctor was told, without an opinion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, TypeVar
from uuid import UUID

from deploy.operator.topics import Difference
from popfax_contracts.topics import Principal
from services.chassis.process_names import ProcessName

T = TypeVar("T")


class Silence(StrEnum):
    """Why a question has no answer."""

    AWAY = "away"
    """Nobody answers there at all."""
    REFUSED = "refused"
    """It was refused: for want of a privilege, or because the schema is another version's."""
    LATE = "late"
    """No answer came in time."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that was not answered, and why."""

    silence: Silence
    detail: str


Answer: TypeAlias = T | Unanswered


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker of the cluster, and whether it answers by itself."""

    id: int
    address: str
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Cluster:
    """Kafka's brokers and the partitions on them, each as `topic/number`."""

    brokers: Sequence[Broker]
    partitions: int
    away: Sequence[int] = ()
    """The ids of brokers that hold replicas, and are not in the cluster."""
    offline: Sequence[str] = ()
    below_min: Sequence[str] = ()
    """Partitions with fewer replicas in sync than a write needs."""
    under_replicated: Sequence[str] = ()
    """Partitions with a replica that is not in sync, but enough to be written to."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a consumer group: a replica that consumes."""

    name: str
    host: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Group:
    """A service's consumer group."""

    state: str
    """As Kafka names it: `stable`, `empty`, `preparing_rebalancing`, …"""
    members: Sequence[Member]
    unassigned: Sequence[str] = ()
    """Partitions of the service's topics that no member has."""
    lag: int = 0
    """Records that are not handled yet, as far as offsets are committed."""
    late: Mapping[str, int] = field(default_factory=dict)
    """Those among them that have been there for longer than `LATE_S`, by topic."""


class Fit(StrEnum):
    """How a database's schema suits this version of the code."""

    CURRENT = "current"
    BEHIND = "behind"
    """It is older, and lacks only what the code works without."""
    OLDER = "older"
    """It is older than the code needs."""
    AHEAD = "ahead"
    """It is a newer version's, and supports this version."""
    NEWER = "newer"
    """It is a newer version's, which does not support this version any more."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A database's revision, and how it suits this version, whose newest is `head`."""

    revision: str | None
    head: str
    fit: Fit
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is connected to a service's database. One without a name may be of a version before 0.3.0."""

    name: ProcessName | None
    address: str
    connections: int


@dataclass(frozen=True, slots=True)
class Leader:
    """Whose connection holds the relay's lock, and for how many seconds nothing was heard from it."""

    process: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class Waits:
    """How many rows of a kind wait, and how many seconds the oldest has waited (0 without any)."""

    count: int = 0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stuck:
    """What is stuck: how many there are, and which has been for longest."""

    count: int = 0
    first: UUID | None = None
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ParkedMessages:
    """The messages that a service has put aside."""

    failed: int = 0
    """Those whose handling failed: each blocks its key."""
    behind: int = 0
    """Those that wait behind them."""
    undecodable: int = 0
    first_failed: UUID | None = None
    first_undecodable: UUID | None = None
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    """A partition that stands still at what it can't unpack."""

    partition: str
    position: int
    error: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Mails:
    """What is wrong with single mails."""

    parked: int = 0
    stuck: int = 0
    """Those that have waited for somebody's record for too long."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, as commands that are shown need it: of its URL all but the password."""

    host: str = "HOST"
    port: str = "5432"
    user: str = "ROLE"
    database: str = "DATABASE"


@dataclass(frozen=True, slots=True)
class Database:
    """A service's database."""

    address: Address
    schema: Answer[Schema]
    processes: Answer[Sequence[Process]]
    leader: Answer[Leader | None]
    next_type: Answer[str | None]
    """The type of the oldest message in the outbox, if this version does not know it."""
    waits: Answer[Mapping[str, Waits]]
    """By what it is: `outbox`, `timer`, `saga` and so on, as in the metrics."""
    parked: Answer[ParkedMessages]
    stops: Answer[Sequence[Stop]]
    sagas: Answer[Stuck]
    transfers: Answer[Stuck]
    mails: Answer[Mails]


@dataclass(frozen=True, slots=True)
class Facts:
    """All answers."""

    version: str
    """This command's own."""
    asked_at: datetime
    bootstrap: str
    cluster: Answer[Cluster]
    topics: Answer[Sequence[Difference]]
    groups: Answer[Mapping[Principal, Group]]
    databases: Mapping[Principal, Database]
