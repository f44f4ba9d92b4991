"""A service's Prometheus metrics. Labels never hold ids of people.

Every series exists from the start, at 0: one that appears with its first event hides that event from `rate`.
"""

from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from services.chassis.database import Cause, Why

OPENED = ("saga", "transfer")
"""What stays open until other services have answered."""


def labelled(name: str, documentation: str, label: str, values: Iterable[str]) -> Counter:
    """Create a counter with one label, and all of its series."""
    made = Counter(name, documentation, [label])
    for value in values:
        made.labels(value)
    return made


HANDLED = Counter("popfax_messages_handled_total", "Messages whose handler ran and whose effect was committed")
DUPLICATES = Counter("popfax_messages_duplicate_total", "Messages that the inbox knew already")
PARKED = labelled("popfax_messages_parked_total", "Messages put aside for an operator", "why", Why)
CONFLICTS = Counter("popfax_batch_conflicts_total", "Batches that lost a race in the database and were tried again")
OUTAGES = labelled(
    "popfax_outages_total", "Attempts that the world around the service stopped, and that wait", "cause", Cause
)
BATCH_SIZE = Histogram("popfax_batch_messages", "Messages in a batch", buckets=(1, 3, 10, 30, 100, 300, 1000, 3000))
BATCH_SECONDS = Histogram("popfax_batch_seconds", "Time from a batch's arrival to its commit")
RELAYED = Counter("popfax_messages_relayed_total", "Outbox rows that Kafka acknowledged")
RELAY_ROUND_SIZE = Histogram(
    "popfax_relay_round_rows", "Outbox rows in a round", buckets=(1, 3, 10, 30, 100, 300, 1000)
)
RELAY_LEADER = Gauge(
    "popfax_relay_leader", "1 while this replica's relay can publish: it holds the lock, and Kafka answers"
)
RELAY_UNKNOWN = Counter(
    "popfax_relay_unknown_types_total", "Times the relay held the outbox before a type that it does not know"
)
RELAY_FAILURES = Counter("popfax_relay_failures_total", "Times the relay had to restart")
TIMERS_FIRED = Counter("popfax_timers_fired_total", "Timers that were due and handed to their handlers")
PARTITION_FAULTS = Counter(
    "popfax_partition_faults_total",
    "Times that a batch on one of a topic's partitions could not be unpacked",
    ["topic"],
)
PARTITIONS_STOPPED = Gauge("popfax_partitions_stopped", "Partitions that stand still at such a batch")
OPEN = Gauge("popfax_open", "Sagas, and transfers that wait for the ledger, that have not ended", ["what"])
OLDEST_OPEN = Gauge("popfax_oldest_open_seconds", "How long the oldest of them has been open, 0 without any", ["what"])
for _what in OPENED:
    OPEN.labels(_what)
    OLDEST_OPEN.labels(_what)
CLIENT_ERRORS = Counter("popfax_kafka_client_errors_total", "Errors that Kafka's client told and mends by itself")


def forget_work() -> None:
    """Take all of these out: a process that does no work knows nothing of it, and its zeros would say that it does."""
    for each in list(globals().values()):
        if isinstance(each, Counter | Gauge | Histogram):
            REGISTRY.unregister(each)
