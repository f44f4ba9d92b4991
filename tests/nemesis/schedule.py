"""Which faults there are in a run, what they strike, and when: a function of the seed alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from deploy.local.kafka import BROKERS
from popfax_contracts.topics import SERVICES, Principal

REPLICAS = tuple(f"{service}-{number}" for number in (1, 2) for service in SERVICES)
BROKER_NAMES = tuple(f"broker-{number}" for number in range(1, BROKERS + 1))
MAILERS = tuple(name for name in REPLICAS if name.startswith(Principal.NOTIFICATIONS))
TO = "~"
"""Stands in the names of connections, between who connects and to whom."""
EVERYONE, EVERYTHING = "everyone", "everything"
CLIENTS = "clients"
"""Who is no replica: the platform, the operator, and the brokers among themselves."""
QUORUM = "quorum"
"""All brokers, when they connect to a broker's controller."""

_TO_DATABASE = tuple(f"{name}{TO}postgres" for name in REPLICAS)
_TO_BROKER = tuple(f"{name}{TO}{broker}" for name in REPLICAS for broker in BROKER_NAMES)
_TO_KAFKA = tuple(f"{name}{TO}brokers" for name in REPLICAS)
_AROUND = tuple(f"{EVERYONE}{TO}{broker}" for broker in BROKER_NAMES)
_TO_ALL = tuple(f"{name}{TO}{EVERYTHING}" for name in REPLICAS)
_BETWEEN = tuple(f"{who}{TO}{broker}" for who in (CLIENTS, QUORUM) for broker in (*BROKER_NAMES, "brokers"))
CONNECTIONS = (*_TO_DATABASE, *_TO_BROKER, *_TO_KAFKA, *_TO_ALL, *_AROUND)

MAJORITY = "a majority of brokers"

MOST = 3
"""The most faults at a time."""

_WANTED = (1, 2, MOST, MOST)

CALM_S = 10.0
"""How long a run begins without faults."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it may strike, and how long it lasts, in seconds."""

    victims: Sequence[str]
    shortest_s: float
    longest_s: float


_SESSION_S, _BROKER_SESSION_S = 10.0, 2.0
"""The time-outs of sessions: of a consumer in its group, of a broker with the controller."""
_BEYOND_S = 40.0
"""How long a frozen process may stay so beyond them."""

KINDS: Mapping[str, Kind] = {
    "kill": Kind(REPLICAS, 1, 15),
    "terminate": Kind(REPLICAS, 1, 15),
    "freeze": Kind(REPLICAS, 5, _SESSION_S + _BEYOND_S),
    "kill a broker": Kind(BROKER_NAMES, 1, 20),
    "stop a broker": Kind(BROKER_NAMES, 1, 20),
    "freeze a broker": Kind(BROKER_NAMES, 1, _BROKER_SESSION_S + _BEYOND_S),
    "kill all brokers": Kind(["brokers"], 1, 8),
    "freeze all brokers": Kind(["brokers"], 3, _BROKER_SESSION_S + _BEYOND_S),
    "kill PostgreSQL": Kind(["postgres"], 1, 10),
    "freeze PostgreSQL": Kind(["postgres"], 3, _BEYOND_S),
    "cut": Kind(CONNECTIONS, 5, _SESSION_S + _BEYOND_S),
    "slow": Kind(CONNECTIONS, 10, 40),
    "cut between brokers": Kind(_BETWEEN, 5, _SESSION_S + _BEYOND_S),
    "slow between brokers": Kind(_BETWEEN, 10, 40),
    "fill a broker's disk": Kind([BROKER_NAMES[-1]], 3, 15),
    "fill PostgreSQL's disk": Kind(["postgres"], 3, 15),
    "set the clock ahead": Kind(SERVICES, 20, 50),
    "set the clock back": Kind(SERVICES, 20, 50),
    "one replica, three replicas": Kind(SERVICES, 45, 65),
    "end sessions": Kind([f"sessions of {service}" for service in SERVICES], 1, 10),
    "lock a table": Kind([f"tables of {service}" for service in SERVICES], 3, 30),
    "lock rows": Kind([f"tables of {service}" for service in SERVICES], 3, 30),
    "replay a group": Kind(SERVICES, 12, 20),
    "retry what is parked": Kind(["what is parked"], 1, 1),
    "slow mail": Kind(["mail"], 10, 40),
    "refuse mail": Kind(["mail"], 5, 30),
    "no mail server": Kind(["mail"], 5, 30),
    "drop mail's answers": Kind(["mail"], 3, 10),
    "no keys": Kind(["keys"], 5, 40),
}
"""Every kind of fault."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that a schedule has, in seconds since the beginning."""

    kind: str
    victim: str
    begins_s: float
    lasts_s: float
    seed: int
    """For what the fault itself chooses: which table, which rows."""

    @property
    def ends_s(self) -> float:
        """Return when it ends."""
        return self.begins_s + self.lasts_s

    def __str__(self) -> str:
        return f"{self.kind} ({self.victim})"


def faults(seed: int, minutes: float, only: Sequence[str] = ()) -> list[Planned]:
    """Return a run's faults in order. Every kind comes once before any comes again; no victim has two at once.

    `only` are the kinds that there are, if not all.
    """
    random = Random(f"faults {seed}")
    kinds = [kind for kind in KINDS if not only or kind in only]
    left: list[str] = []
    found: list[Planned] = []
    now, end = CALM_S, minutes * 60
    while now < end:
        left = left or random.sample(kinds, len(kinds))
        active = [each for each in found if each.ends_s > now]
        if len(active) < random.choice(_WANTED) and (chosen := _chosen(random, left, active)) is not None:
            kind, victim = chosen
            left.remove(kind)
            lasts = min(_length(random, KINDS[kind]), end - now)
            found.append(Planned(kind, victim, now, round(lasts, 1), random.getrandbits(32)))
        now = round(now + random.uniform(1, 4), 1)
    return found


def _length(random: Random, kind: Kind) -> float:
    """Return how long a fault lasts: rather short, so that there are many, and now and then as long as it may."""
    return random.triangular(kind.shortest_s, kind.longest_s, kind.shortest_s)


def _chosen(random: Random, kinds: Iterable[str], active: Sequence[Planned]) -> tuple[str, str] | None:
    """Return the first kind that can strike something that has no fault, and what; None if there is none."""
    struck = frozenset().union(*(claims(each.victim) for each in active))
    for kind in kinds:
        if free := [victim for victim in KINDS[kind].victims if not claims(victim) & struck]:
            return kind, random.choice(free)
    return None


def claims(victim: str) -> frozenset[str]:
    """Return the parts that a fault with this victim has for itself.

    At most one broker is struck at a time, or all are: with two of three away, nothing goes on that could go wrong.
    """
    if victim == "brokers":
        return frozenset({*BROKER_NAMES, MAJORITY})
    if victim in BROKER_NAMES:
        return frozenset({victim, MAJORITY})
    if victim in (*_AROUND, *_BETWEEN):
        return frozenset({*links(victim), MAJORITY})
    if victim in SERVICES:
        return frozenset(name for name in REPLICAS if name.startswith(victim))
    if TO in victim:
        return frozenset(links(victim))
    return frozenset({victim})


_SEVERAL = {"brokers": BROKER_NAMES, EVERYTHING: (*BROKER_NAMES, "postgres")}


def links(victim: str) -> Iterable[str]:
    """Yield the single connections that a victim's name stands for."""
    whence, _, where = victim.partition(TO)
    for one in (*REPLICAS, CLIENTS) if whence == EVERYONE else (whence,):
        for other in _SEVERAL.get(where, (where,)):
            yield f"{one}{TO}{other}"
