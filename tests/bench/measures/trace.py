"""Where a saga's time goes, hop by hop, read off Kafka: nothing in the product is instrumented.

Each record says which message caused it, when the batch that made it began (`ce_time`), and when the broker appended
it. So the way back from a saga's last event to its command splits into hops of two parts: `wait_ms`, from the append of
the cause to the begin of the batch that handles it (the broker's fetch, the batch before), and `work_ms`, from there
until the answer is appended (the transaction, the relay).
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.message import Message
from popfax_contracts.topics import TOPICS
from services.chassis.settings import KafkaSettings
from tests.bench.load import Follower, header
from tests.bench.running import LIMIT_S, SAGA_ENDS, Bench

RATE = 100


@dataclass(frozen=True, slots=True)
class Hop:
    """A record: who made it because of what, when its batch began, and when the broker had it. Times in ms."""

    service: str
    type: str
    cause: str
    begun_ms: float
    appended_ms: float


Path = tuple[Hop, ...]
"""From a command, which nothing caused, to the last event."""


class Tracer(Follower):
    """Follows all topics, and keeps each record as a hop."""

    def __init__(self, settings: KafkaSettings, ends: Iterable[type[Message]]) -> None:
        super().__init__(settings, TOPICS, ends)
        self.hops: dict[str, Hop] = {}

    def note(self, record: Any, now: float) -> None:
        """Keep a record."""
        super().note(record, now)
        id_, type_ = header(record, "ce_id").decode(), header(record, "ce_type").decode()
        time = header(record, "ce_time").decode()
        begun_ms = datetime.fromisoformat(time).timestamp() * 1e3 if time else record.timestamp
        service = header(record, "ce_source").decode().removeprefix("popfax/")
        cause = header(record, "ce_causationid").decode()
        self.hops[id_] = Hop(service, type_, cause, begun_ms, record.timestamp)


def path_to(last: str, hops: dict[str, Hop]) -> Path:
    """Return the hops that led to a record, the first one first. It ends where a cause was not seen."""
    found: list[Hop] = []
    while (hop := hops.get(last)) is not None:
        found.append(hop)
        last = hop.cause
    return tuple(reversed(found))


def summary(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the medians of each hop, over the sagas that went the most frequent way."""
    ways = Counter(tuple(hop.type for hop in path) for path in paths)
    (way, _), *_ = ways.most_common(1)
    alike = [path for path in paths if tuple(hop.type for hop in path) == way]
    hops = []
    for number in range(1, len(way)):
        pairs = [(path[number - 1], path[number]) for path in alike]
        hops.append(
            {
                "by": pairs[0][1].service,
                "makes": MESSAGES[way[number]].__name__,
                "wait_ms": round(statistics.median(hop.begun_ms - cause.appended_ms for cause, hop in pairs), 1),
                "work_ms": round(statistics.median(hop.appended_ms - hop.begun_ms for _, hop in pairs), 1),
            }
        )
    return hops


async def trace(bench: Bench) -> dict[str, Any]:
    """Follow every record of sagas that come at `RATE` per second."""
    count = RATE * bench.sizes.steady_s // 2
    tracer = Tracer(bench.settings("admin"), [MemberAccountCreated])
    await tracer.start()
    try:
        ran = await bench.sagas(count, RATE, ends=SAGA_ENDS)
        await tracer.until(count, LIMIT_S, lambda _: None)
    finally:
        await tracer.stop()
    last = [id_ for id_, hop in tracer.hops.items() if hop.type == MemberAccountCreated.TYPE]
    return {"trace": {"per_s": RATE, **ran.latencies(), "hops": summary([path_to(id_, tracer.hops) for id_ in last])}}
