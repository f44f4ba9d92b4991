"""How old records are when they are handled: what the consumer measures of each batch, for the oldest of each topic."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from services.chassis import metrics
from services.chassis.envelopes import Headers
from services.chassis.observed import Series
from services.chassis.service import Service


@dataclass(slots=True)
class Fetched:
    """A record as it came from Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    """Milliseconds since 1970."""


class Arrivals:
    """The batch that is being handled, and since when."""

    def __init__(self, service: Service) -> None:
        topics = [topic.name for topic in service.topics]
        events = [topic.name for topic in service.topics if not topic.commands]
        self._seconds = Series(metrics.BATCH_SECONDS, topics)
        self._lags = Series(metrics.LAG_SECONDS, topics)
        self._delays = {name: metrics.EVENT_DELAY.labels(name) for name in events}
        self._oldest: dict[str, Fetched] = {}
        self._begun_at = 0.0
        for name in topics:
            metrics.OLDEST_UNHANDLED.labels(name).set_function(partial(self._age_s, name))

    def begin(self, records: Sequence[Fetched]) -> None:
        """Begin with a batch."""
        oldest: dict[str, Fetched] = {}
        for record in records:
            if (known := oldest.get(record.topic)) is None or record.timestamp < known.timestamp:
                oldest[record.topic] = record
        self._oldest, self._begun_at = oldest, time.monotonic()

    def committed(self) -> None:
        """End it: it is handled."""
        handled, self._oldest = self._oldest, {}
        taken_s, now = time.monotonic() - self._begun_at, time.time()
        for topic, record in handled.items():
            self._seconds[topic].observe(taken_s)
            self._lags[topic].observe(max(0.0, now - record.timestamp / 1000))
            if topic in self._delays and (made_at := _made_at(record)) is not None:
                self._delays[topic].observe(max(0.0, now - made_at))

    def dropped(self) -> None:
        """End it: it is not ours any more, or the service has to stop."""
        self._oldest = {}

    def _age_s(self, topic: str) -> float:
        record = self._oldest.get(topic)
        return 0.0 if record is None else max(0.0, time.time() - record.timestamp / 1000)


def _made_at(record: Fetched) -> float | None:
    """Return when what an event reports was committed, in seconds; None if the record does not say."""
    with suppress(ValueError):
        return datetime.fromisoformat((dict(record.headers).get("ce_time") or b"").decode()).timestamp()
    return None
