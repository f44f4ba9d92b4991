"""Structured logs: JSON for machines, colours for people. They contain ids, never a name or an address."""

import logging
import sys
from typing import Literal

import structlog


class _Quiet(logging.Filter):
    """Lets a library log the same message once every ten seconds: aiokafka repeats itself while a broker is away."""

    def __init__(self, seconds: float = 10) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record gets through."""
        last = self._last.get(record.msg)
        if last is not None and record.created - last < self._seconds:
            return False
        self._last[record.msg] = record.created
        return True


def configure_logs(service: str, form: Literal["json", "console"], level: str) -> None:
    """Set up logging for this process: our own through structlog, and the libraries' in the same format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
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
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _tracebacks(form), renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    structlog.contextvars.bind_contextvars(service=service)
    for name in ("aiokafka", "alembic", "librdkafka", "uvicorn"):
        noisy = logging.getLogger(name)
        noisy.setLevel(logging.WARNING)
    for name in (
        "aiokafka.conn",
        "aiokafka.cluster",
        "aiokafka.consumer.group_coordinator",
        "aiokafka.consumer.fetcher",
    ):
        logging.getLogger(name).addFilter(_Quiet())
    for name in ("aiokafka", "librdkafka"):
        logging.getLogger(name).addFilter(_Quiet())


def _tracebacks(form: str) -> structlog.typing.Processor:
    return structlog.processors.format_exc_info if form == "json" else lambda _logger, _name, event: event
