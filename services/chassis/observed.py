"""What the shell counts of a batch that it has committed. A message by itself costs nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

from prometheus_client.metrics import MetricWrapperBase

from popfax_contracts.message import Command, Message, Refusal
from services.chassis import metrics
from services.chassis.database import Conflict
from services.chassis.messages import TIMERS, Incoming, Outgoing, Undecodable
from services.chassis.rows import Changes, Rows
from services.chassis.sagas import SagaRow, Status
from services.chassis.service import Moment, Service

M = TypeVar("M", bound=MetricWrapperBase)

_topic = attrgetter("record.topic")
_type = attrgetter("type")

_CALLED_OFF = ("timed_out", "cancelled")
"""The codes of sagas that nobody refused."""

_CAUSES = {"40P01": "deadlock", "40001": "serialization", "23505": "duplicate_key"}


class Series(dict[str, M]):
    """A metric's series by the value of its one label: those that are known from the start, and any other later."""

    def __init__(self, metric: M, values: Iterable[str]) -> None:
        super().__init__((value, metric.labels(value)) for value in values)
        self._metric = metric

    def __missing__(self, value: str) -> M:
        """Create the series of a value that was not expected: that of a parked message whose topic is read no more."""
        made = self[value] = self._metric.labels(value)
        return made


class Observed:
    """The metrics of one service's batches."""

    def __init__(self, service: Service) -> None:
        topics = [*(topic.name for topic in service.topics), TIMERS]
        self._commands = service.command_topics
        self._handled = Series(metrics.HANDLED, topics)
        self._sizes = Series(metrics.BATCH_SIZE, topics)
        self._errors = Series(metrics.HANDLER_ERRORS, [*(model.TYPE for model in service.handlers), "unreadable"])
        self._answers = {
            model.TYPE: metrics.COMMANDS.labels(_outcome(model), model.TYPE) for model in _answers(service)
        }
        self._parked = metrics.COMMANDS.labels("parked", "none")
        self._sagas = {
            (name, outcome): metrics.SAGA_SECONDS.labels(name, outcome)
            for name in service.sagas
            for outcome in (Status.COMPLETED.value, Status.REFUSED.value, *_CALLED_OFF)
        }

    def batch(
        self,
        source: str,
        arrivals: Sequence[Incoming[Message] | Undecodable],
        fresh: Sequence[Incoming[Message] | Undecodable],
        handled: Sequence[Incoming[Message]],
    ) -> None:
        """Count a batch from that source: what arrived, what of it was new, and what was handled."""
        metrics.BATCHES.labels(source).inc()
        metrics.DUPLICATES.inc(len(arrivals) - len(fresh))
        for topic, count in Counter(map(_topic, arrivals)).items():
            self._sizes[topic].observe(count)
        for topic, count in Counter(map(_topic, handled)).items():
            self._handled[topic].inc(count)

    def effects(self, messages: Iterable[Outgoing], changes: Iterable[Changes], moment: Moment) -> None:
        """Count the answers to commands among the messages of a batch, and measure the sagas that it ended."""
        for type_, count in Counter(map(_type, messages)).items():
            if (answers := self._answers.get(type_)) is not None:
                answers.inc(count)
        for rows in changes:
            if isinstance(rows, Rows) and rows.mapped.row is SagaRow:
                for row in rows.loaded():
                    if row.ended_at is moment.now:
                        self._ended(row)

    def _ended(self, row: SagaRow) -> None:
        outcome = row.code if row.code in _CALLED_OFF else row.status.value
        self._sagas[row.name, outcome].observe((row.updated_at - row.opened_at).total_seconds())

    def parked(self, topic: str) -> None:
        """Count a parked message if it is a command that nothing answers."""
        if topic in self._commands:
            self._parked.inc()

    def failed(self, arrival: Incoming[Message] | Undecodable) -> None:
        """Count a message whose handling failed by itself."""
        self._errors["unreadable" if isinstance(arrival, Undecodable) else arrival.body.TYPE].inc()


def count_conflict(conflict: Conflict) -> None:
    """Count a batch that lost a race."""
    metrics.CONFLICTS.labels(_CAUSES.get(conflict.state, "other")).inc()


def _answers(service: Service) -> Iterator[type[Message]]:
    yield service.malformed
    for command in service.handlers:
        if issubclass(command, Command):
            yield from command.outcomes()


def _outcome(model: type[Message]) -> str:
    return "refused" if issubclass(model, Refusal) else "answered"
