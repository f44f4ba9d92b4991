"""A service's Prometheus metrics: each with its meaning, its labels, and the question that it answers.

`docs/operations/metrics.md` is generated from these definitions. Labels never hold ids of people.

Every series exists from the start, at 0: one that appears with its first event hides that event from `rate`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from services.chassis.database import Cause, Why

M = TypeVar("M", bound=MetricWrapperBase)


class Part(StrEnum):
    """A part of a service: the metrics of those that a process does not have are not exported by it."""

    PROCESS = "process"
    """What every process has."""
    WORK = "work"
    """It consumes, relays, fires timers."""
    SAGAS = "sagas"
    """It works, and runs sagas."""
    SITE = "site"
    """It serves people over HTTP."""
    MAILS = "mails"
    """It sends mails."""


Values = Iterable[str] | str
"""A label's values: all of them or, if they depend on the service, a description."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What the documents say about a metric."""

    metric: MetricWrapperBase
    means: str
    answers: str
    """The question that it answers."""
    labels: Mapping[str, Values]
    part: Part


disable_created_metrics()  # type: ignore[no-untyped-call]  # as many series again, for nothing that Prometheus needs

DEFINITIONS: list[Definition] = []
"""All metrics of the modules that are imported."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""From a hop on an idle machine to the return from an outage."""

_SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000)


def counter(name: str, means: str, answers: str, part: Part = Part.WORK, **labels: Values) -> Counter:
    """Define a counter."""
    return _defined(Counter(name, means, list(labels)), means, answers, part, labels)


def gauge(name: str, means: str, answers: str, part: Part = Part.WORK, **labels: Values) -> Gauge:
    """Define a gauge."""
    return _defined(Gauge(name, means, list(labels)), means, answers, part, labels)


def histogram(
    name: str, means: str, answers: str, part: Part = Part.WORK, buckets: Iterable[float] = _SECONDS, **labels: Values
) -> Histogram:
    """Define a histogram."""
    return _defined(Histogram(name, means, list(labels), buckets=tuple(buckets)), means, answers, part, labels)


def _defined(metric: M, means: str, answers: str, part: Part, labels: Mapping[str, Values]) -> M:
    """Note a definition, and create its series if they are known; otherwise whoever fills them does, at the start."""
    DEFINITIONS.append(Definition(metric, means, answers, labels, part))
    if len(labels) == 1 and not isinstance(values := next(iter(labels.values())), str):
        for value in values:
            metric.labels(value)
    return metric


_TOPIC = "the topics that the service reads"

HANDLED = counter(
    "popfax_messages_handled_total",
    "Messages whose handler ran and whose effect was committed",
    "How much work is done?",
    topic=f"{_TOPIC}, and `timers`",
)
DUPLICATES = counter(
    "popfax_messages_duplicate_total", "Messages that the inbox knew already", "How much is delivered more than once?"
)
PARKED = counter(
    "popfax_messages_parked_total",
    "Messages put aside for an operator",
    "Are there messages that can't be read or handled?",
    why=Why,
)
HANDLER_ERRORS = counter(
    "popfax_handler_errors_total",
    "Messages whose handling failed by itself, after all attempts",
    "Which kind of message fails?",
    type="the types of messages that the service handles, and `unreadable`",
)
COMMANDS = counter(
    "popfax_commands_total",
    "Commands that were answered by an event, refused by one, or parked",
    "What becomes of what people and systems ask for?",
    outcome="`answered`, `refused`, `parked`",
    answer="the type of the event, `none` for a parked command",
)
BATCHES = counter(
    "popfax_batches_total",
    "Batches that were committed, each in one transaction",
    "How many transactions does the work take?",
    source=("messages", "timers", "retries"),
)
BATCH_SIZE = histogram(
    "popfax_batch_messages",
    "A topic's messages in a batch",
    "Does the service work in batches, or message by message?",
    buckets=_SIZES,
    topic=f"{_TOPIC}, and `timers`",
)
BATCH_SECONDS = histogram(
    "popfax_batch_seconds",
    "Time from a batch's arrival to its commit, once per topic in it",
    "Is the handling slow, for example because the database is?",
    topic=_TOPIC,
)
CONFLICTS = counter(
    "popfax_batch_conflicts_total",
    "Batches that lost a race in the database and were tried again",
    "Do replicas hinder each other?",
    cause=("deadlock", "serialization", "duplicate_key", "other"),
)
OUTAGES = counter(
    "popfax_outages_total",
    "Attempts that the world around the service stopped, and that wait",
    "What stops the service, and how often?",
    cause=Cause,
)
OUTAGE_SECONDS = gauge(
    "popfax_outage_seconds",
    "How long the service has been waiting for the world around it, 0 while it does not",
    "Is the service stopped now, by what, and since when?",
    cause=Cause,
)

LAG_SECONDS = histogram(
    "popfax_message_lag_seconds",
    "Age of the oldest record of a topic in a batch at the batch's commit, by the record's timestamp",
    "How long do messages wait in Kafka?",
    topic=_TOPIC,
)
OLDEST_UNHANDLED = gauge(
    "popfax_oldest_unhandled_seconds",
    "Age of the oldest record of a topic in the batch that is being handled, 0 between batches",
    "Is a batch stuck, and since when?",
    topic=_TOPIC,
)
EVENT_DELAY = histogram(
    "popfax_event_delay_seconds",
    "Time from the commit that a service's event reports to the commit of its effect here, of the oldest in a batch",
    "How fresh is what the service knows of the others?",
    topic="the topics of other services' events that the service reads",
)
LAG = gauge(
    "popfax_consumer_lag_messages",
    "Records that this replica's partitions hold and that are not handled",
    "Does the service keep up?",
    topic=_TOPIC,
)
PARTITIONS = gauge(
    "popfax_consumer_partitions",
    "Partitions that this replica has",
    "Does every partition have a replica that reads it?",
)
CONSUMES = gauge(
    "popfax_consumer_healthy",
    "1 while the replica has joined the others and Kafka answers for each of its partitions, as in `/ready`",
    "Can the replica read from Kafka?",
)
PARTITION_FAULTS = counter(
    "popfax_partition_faults_total",
    "Times that a batch on one of a topic's partitions could not be unpacked",
    "Is there damaged data in Kafka?",
    topic=_TOPIC,
)
PARTITIONS_STOPPED = gauge(
    "popfax_partitions_stopped", "Partitions that stand still at such a batch", "Does a partition stand still?"
)
CLIENT_ERRORS = counter(
    "popfax_kafka_client_errors_total",
    "Errors that Kafka's client reported and recovers from by itself",
    "Is the way to Kafka bad?",
)

OPEN = gauge(
    "popfax_open",
    "Rows that wait, counted up to 100,000; timers of rows, commands and mails up to 10,000",
    "How much waits, of what?",
    what="the kinds below",
)
OLDEST_OPEN = gauge(
    "popfax_oldest_open_seconds",
    "How long the oldest of them has been waiting, 0 without any",
    "How long has the oldest been waiting: is something stuck?",
    what="the kinds below",
)
OPEN_MEASURED = gauge(
    "popfax_open_measured_seconds",
    "Time since these two were last read from the database",
    "How old are the figures of what waits?",
)
TIMERS_FIRED = counter(
    "popfax_timers_fired_total", "Timers that were due and handed to their handlers", "Do timers fire?"
)

SAGA_SECONDS = histogram(
    "popfax_saga_seconds",
    "Time from the opening of a saga to its end",
    "How long do sagas take, and how do they end?",
    part=Part.SAGAS,
    saga="the names of the service's sagas",
    outcome="`completed`, `refused`, `timed_out`, `cancelled`",
)

RELAY_LEADER = gauge(
    "popfax_relay_leader",
    "1 while this replica's relay publishes: it holds the lock, and its last attempt succeeded",
    "Is the outbox published, and by which replica?",
)
RELAYED = counter("popfax_messages_relayed_total", "Outbox rows that Kafka acknowledged", "How much is published?")
RELAY_ROUND_SIZE = histogram(
    "popfax_relay_round_rows", "Outbox rows in a round", "Does the relay work in batches?", buckets=_SIZES
)
RELAY_DELAY = histogram(
    "popfax_relay_delay_seconds",
    "Time from the commit of a round's first row to Kafka's acknowledgement",
    "How long do messages wait in the outbox?",
)
RELAY_UNKNOWN = counter(
    "popfax_relay_unknown_types_total",
    "Times the relay held the outbox before a type that it does not know",
    "Does an old version hold up what a new one wrote?",
)
RELAY_FAILURES = counter(
    "popfax_relay_failures_total", "Times the relay had to restart", "Is the way from the outbox to Kafka bad?"
)

_POOL = "`work` (batches, relay, mails), `web` (page and API)"

CONNECTIONS = gauge(
    "popfax_database_connections",
    "Connections to PostgreSQL",
    "How many connections are in use?",
    part=Part.PROCESS,
    pool=_POOL,
    state="`used`, `idle`",
)
CONNECTIONS_MAX = gauge(
    "popfax_database_connections_max",
    "Connections to PostgreSQL that may be open at once",
    "Is the pool exhausted?",
    part=Part.PROCESS,
    pool=_POOL,
)
CONNECTION_WAIT = histogram(
    "popfax_database_wait_seconds",
    "Time until a connection was there: a free one, or a new one",
    "Is the pool too small, or connecting slow?",
    part=Part.PROCESS,
    pool=_POOL,
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30),
)
BUILD = gauge(
    "popfax_build_info",
    "1; its labels say what runs",
    "Which versions run, where?",
    part=Part.PROCESS,
    service="the service",
    version="the release",
    commit="`POPFAX_COMMIT`, which the image sets; `unknown` without it",
)
SPANS_RECORDED = counter(
    "popfax_spans_recorded_total",
    "Spans of traces that were recorded, to be sent to the collector",
    "How much is traced?",
    part=Part.PROCESS,
)
SPANS_SENT = counter(
    "popfax_spans_sent_total",
    "Spans that the collector took; the others wait for it, or are lost",
    "Do traces arrive?",
    part=Part.PROCESS,
)


def forget(*parts: Part) -> None:
    """Take out the metrics of parts that this process has not: zeros would say that it has them, and all is well."""
    for definition in DEFINITIONS:
        if definition.part in parts:
            REGISTRY.unregister(definition.metric)
