"""Structured logs: JSON, one line per event, or colours for people. They contain ids, never a name or an address.

Whatever repeats itself is limited, so that an outage does not bury what matters: an event of ours comes ten times, and
then once every ten seconds, as long as what happens, where and why are the same; a library's line comes once every ten
seconds. The next line says how many were left out (`suppressed`).
"""

import logging
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import structlog

FIELDS = {
    "timestamp": "when, in UTC, as in RFC 3339",
    "level": "`debug`, `info`, `warning`, `error` or `critical`: from `error` on, somebody has to look",
    "event": "what happened: one of the names below, or a library's line",
    "logger": "the module, or the library",
    "service": "the service",
    "suppressed": "how many such lines were left out since the last one, if any",
    "exception": "a traceback, on this same line",
    "all": "how many partitions this replica has now",
    "answer": "what the mail server said",
    "attempt": "which attempt it was",
    "of": "how many attempts there are",
    "at": "the offset at which a partition stood",
    "cause": "what is wrong with the world around the service, as in `popfax_outages_total`",
    "code": "a stable code for what is wrong",
    "correlation_id": "the id that all messages about one matter share",
    "detail": "more about it, without personal data",
    "error": "an error's class, and the database's own code if there is one",
    "gone": "how many partitions this replica has lost",
    "http_port": "where the process answers over HTTP",
    "known": "how many of the platform's keys are known all the same",
    "mail_id": "the mail, as in `popfax mail list`",
    "message_id": "the message, as in `popfax parked list`",
    "new": "how many partitions this replica has gained",
    "partition": "the partition's number",
    "position": "the offset of the first record that can't be read",
    "reason": "why, in a few words",
    "recipient_id": "the subscriber to whom a mail is addressed",
    "replica": "the replica's name",
    "since_s": "for how long it has been so, in seconds",
    "size": "how many messages there are in the batch",
    "table": "the table",
    "task": "the background task",
    "template": "the kind of mail",
    "to": "the offset at which a partition goes on",
    "topic": "the topic",
    "tried": "how many parked messages were tried again",
    "type": "the message's type",
    "waited_s": "for how long it was so, in seconds",
    "what": "the loop that waits, or what is waited for",
    "why": "why a message or a mail is parked",
}
"""Every field that a line may have, and its meaning."""

FREELY = 10
"""How often an event of ours comes before it is limited."""

EVERY_S = 10.0
"""How often what repeats itself comes from then on."""

_MOST_KINDS = 1000

_TELLING = ("what", "cause", "code", "error", "type", "topic")
"""The fields by which two events of a name differ for the limit: they have few values."""


@dataclass(slots=True)
class _Kind:
    """The lines that are alike: how many may still come, since when, and how many were left out."""

    left: float
    at: float
    suppressed: int = 0


class Limit(logging.Filter):
    """Lets through what is new, and now and then what repeats itself. What is logged for debugging is not limited."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[Any, ...], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record gets through; note in it how many did not."""
        if record.levelno <= logging.DEBUG:
            return True
        most = FREELY if isinstance(record.msg, dict) else 1
        if len(self._kinds) > _MOST_KINDS:
            self._kinds.clear()
        kind = self._kinds.setdefault(_alike(record), _Kind(most, record.created))
        kind.left = min(most, kind.left + (record.created - kind.at) / EVERY_S)
        kind.at = record.created
        if kind.left < 1:
            kind.suppressed += 1
            return False
        kind.left -= 1
        record.suppressed, kind.suppressed = kind.suppressed, 0
        return True


def _alike(record: logging.LogRecord) -> tuple[Any, ...]:
    """Return what a record has in common with those that only repeat it. structlog's records are dictionaries."""
    if isinstance(record.msg, dict):
        return record.name, record.msg.get("event"), *(str(record.msg.get(name)) for name in _TELLING)
    first = record.args[0] if isinstance(record.args, tuple) and record.args else None  # librdkafka's kind of line
    return record.name, record.levelno, record.msg, str(first)


def configure_logs(service: str, form: Literal["json", "console"], level: str) -> None:
    """Set up logging for this process: our own through structlog, and the libraries' in the same format."""

    def name_service(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            _tell_suppressed,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _tracebacks(form),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(Limit())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("aiokafka", "alembic", "librdkafka", "services.chassis.postgres._Pool", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _tell_end
    threading.excepthook = lambda failed: _tell_end(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _tell_end(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log what ends a process or a thread, in one line as everything else."""
    if error is not None:
        structlog.get_logger(__name__).critical("crashed", error=kind.__name__, exc_info=(kind, error, trace))


def _tell_suppressed(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if suppressed := getattr(event["_record"], "suppressed", 0):
        event["suppressed"] = suppressed
    return event


def _tracebacks(form: str) -> structlog.typing.Processor:
    return structlog.processors.format_exc_info if form == "json" else lambda _logger, _name, event: event
