"""What the product tells of its hops to a trace: a command on its way, from the request or the record to the mail.

The context of a trace (W3C Trace Context) travels as `traceparent` in records, outbox rows, timers and mails. Unless
there is an address to send spans to, nothing is recorded, and a message's consequences carry its context on as it came.
What records is in `spans`, which alone imports OpenTelemetry's SDK: an extra, `tracing`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from starlette.types import ASGIApp

from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis.messages import Envelope, Incoming, Outgoing
from services.chassis.settings import ProcessSettings


class TracedBatch:
    """One attempt at a batch; this one is not recorded."""

    def handles(self, messages: Sequence[Incoming[Message]]) -> None:
        """Take note of what is handled from now on. Each message gets its handling as context, for what follows it."""

    def sends(self, messages: Sequence[Outgoing]) -> None:
        """Take note of what goes into the outbox. Each message gets a context of its own."""


class TracedMail:
    """One attempt at a mail; this one is not recorded."""

    def ends(self, outcome: str) -> None:
        """Take note of how it ended, in one of a few words."""


_BATCH, _MAIL = TracedBatch(), TracedMail()


class Tracing:
    """Takes note of the hops; this one forgets them. Nothing waits for the collector of the spans, or fails with it."""

    @contextmanager
    def batch(self, source: str) -> Iterator[TracedBatch]:
        """Trace one attempt at a batch, to the end of its transaction."""
        yield _BATCH

    @contextmanager
    def publishing(self, rows: Sequence[Envelope]) -> Iterator[None]:
        """Trace the publishing of outbox rows, until Kafka has acknowledged them."""
        yield

    @contextmanager
    def posting(self, command: Outgoing) -> Iterator[None]:
        """Trace how the present request puts a command into the outbox."""
        yield

    @contextmanager
    def mailing(self, mail_id: UUID, attempt: int, traceparent: str | None) -> Iterator[TracedMail]:
        """Trace an attempt to hand a mail over to the mail server."""
        yield _MAIL

    def site(self, app: ASGIApp) -> ASGIApp:
        """Return an application that traces its requests."""
        return app

    async def stop(self) -> None:
        """Send what has not been sent, within `STOP_S`."""


STOP_S = 2.0
"""How long sending the last spans may take when a process stops."""

_tracing = Tracing()


def tracing() -> Tracing:
    """Return this process's tracing."""
    return _tracing


def use(other: Tracing) -> None:
    """Replace this process's tracing."""
    global _tracing  # noqa: PLW0603 (one for each process, as with logs and metrics)
    _tracing = other


def start_tracing(principal: Principal, settings: ProcessSettings) -> None:
    """Trace from now on, if there is an address to send spans to. Ends the process if the extra is not installed."""
    if settings.otlp_endpoint is None:
        return
    try:
        from services.chassis.spans import to_collector  # noqa: PLC0415 (an extra, and slow to import)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{principal.upper()}_OTLP_ENDPOINT needs the extra `tracing` ({error.name})") from error
    use(to_collector(principal, settings))
