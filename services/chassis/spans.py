"""Spans of the hops, by OpenTelemetry, sent to a collector by OTLP over HTTP.

Each message has spans of its own in its trace: `process` while it is handled; `create` for each message that follows,
whose context goes into the outbox row, and so into the record; `send` while the relay publishes that. What messages
share, such as a batch and its transaction, has a span outside their traces. The two sides link to each other.

Names and attributes are those of OpenTelemetry's semantic conventions: HTTP's are stable, messaging's in development.
Attributes hold ids, numbers and names of ours. They never hold what a person or an exception says.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import time_ns
from typing import Any
from uuid import UUID

import structlog
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TraceState, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Message
from popfax_contracts.topics import Principal
from services.chassis import build, metrics
from services.chassis.database import Outage
from services.chassis.messages import TIMERS, Envelope, Incoming, Outgoing
from services.chassis.settings import ProcessSettings
from services.chassis.tracing import STOP_S, TracedBatch, TracedMail, Tracing

log = structlog.get_logger(__name__)

QUEUE = 8192
"""The most spans that wait to be sent. With a full queue the oldest are lost, and nothing waits."""

AT_ONCE = 512
"""The most spans in one request to the collector."""

EVERY_S = 1.0
"""How often spans are sent, unless there are `AT_ONCE` before."""

ANSWER_S = 5.0
"""How long the collector may take to answer, with all repetitions of a request."""

LINKS = 128
"""The most links of a span. Those of a larger batch's messages all link to it."""

_NOWHERE = Context()
_W3C = TraceContextTextMapPropagator()
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


def to_collector(principal: Principal, settings: ProcessSettings) -> "Spans":
    """Return tracing that sends its spans to the collector of the settings."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `Told` says what matters, once
    exporter = OTLPSpanExporter(
        endpoint=str(settings.otlp_endpoint),
        certificate_file=None if settings.otlp_ca_file is None else str(settings.otlp_ca_file),
        timeout=ANSWER_S,
        compression=Compression.Gzip,
    )
    processor = _Queue(Told(exporter), QUEUE, EVERY_S * 1000, AT_ONCE)
    return Spans(principal, processor, settings.trace_ratio)


def context_of(traceparent: str | None) -> Context:
    """Return the context that a message brings: none if it brings none, or something else."""
    return _W3C.extract({"traceparent": traceparent}, _NOWHERE) if traceparent else _NOWHERE


def traceparent_of(span: Span) -> str:
    """Return a span's context as it travels."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, set_span_in_context(span, _NOWHERE))
    return carrier["traceparent"]


class Spans(Tracing):
    """Records the hops of one process."""

    def __init__(self, principal: Principal, processor: SpanProcessor, ratio: float) -> None:
        """`ratio` is the share of traces that are recorded, of those that begin here."""
        self.principal = principal
        # Standard attributes of the deployment come from OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource.create(
            {"service.namespace": "popfax", "service.name": principal.value, "service.version": build.version()}
        )
        sampler = ParentBased(_Beginnings(ratio))
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("popfax")

    @contextmanager
    def batch(self, source: str) -> Iterator[TracedBatch]:
        """Record the messages of an attempt that succeeds, and a message that fails on its own."""
        batch = _Batch(self, source)
        try:
            yield batch
        except BaseException as error:
            batch.fails(error)
            raise
        batch.succeeds()

    @contextmanager
    def publishing(self, rows: Sequence[Envelope]) -> Iterator[None]:
        """Record the rows of recorded traces."""
        begun = time_ns()
        recorded = ((row, _recorded(row.traceparent.decode())) for row in rows if row.traceparent is not None)
        spans = [self._send(row, context) for row, context in recorded if context is not None]
        try:
            yield
        except BaseException as error:
            self.together("publish batch", spans, len(rows), begun, error)
            raise
        self.together("publish batch", spans, len(rows), begun)

    @contextmanager
    def posting(self, command: Outgoing) -> Iterator[None]:
        """Record the command as a consequence of the present request."""
        span = self.create(command, get_current_span())
        command.traceparent = traceparent_of(span)
        yield
        span.end()

    @contextmanager
    def mailing(self, mail_id: UUID, attempt: int, traceparent: str | None) -> Iterator[TracedMail]:
        """Record an attempt at a mail of a recorded trace."""
        if traceparent is None or (context := _recorded(traceparent)) is None:
            yield TracedMail()
            return
        attributes: dict[str, Any] = {"popfax.mail.id": str(mail_id), "popfax.mail.attempt": attempt}
        span = self.tracer.start_span("send mail", context, SpanKind.CLIENT, attributes)
        yield _Mail(span)
        span.end()

    def site(self, app: ASGIApp) -> ASGIApp:
        """Record the requests, each in a trace of its own: whoever calls does not choose what is recorded."""
        return _Site(app, self)

    async def stop(self) -> None:
        """Send what is left, within `STOP_S`; a thread that hangs with the collector ends with the process."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop was not waited for
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=stop, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await ended.wait()

    def process(self, message: Incoming[Message], begun: int) -> Span:
        """Begin the handling of a message. What a timer brings, perhaps a week later, is a trace of its own."""
        record, context = message.record, context_of(message.traceparent)
        name, about = f"process {record.topic}", _about(message.body.TYPE, message.id, message.correlation_id)
        if record.topic == TIMERS:
            links = _links([get_current_span(context)])
            return self.tracer.start_span(name, _NOWHERE, SpanKind.INTERNAL, about, links, begun)
        attributes = {
            **_operation("process", record.topic),
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            **about,
        }
        return self.tracer.start_span(name, context, SpanKind.CONSUMER, attributes, None, begun)

    def create(self, message: Outgoing, cause: Span) -> Span:
        """Begin with a message that follows from something."""
        topic = self._topic(message.type)
        attributes = _operation("create", topic) | _about(message.type, message.id, message.correlation_id)
        return self.tracer.start_span(
            f"create {topic}", set_span_in_context(cause, _NOWHERE), SpanKind.PRODUCER, attributes
        )

    def together(
        self, name: str, spans: Sequence[Span], count: int, begun: int, error: BaseException | None = None
    ) -> None:
        """Record work that `count` messages shared, and these spans of those that are recorded."""
        if not spans:
            return
        attributes = {"messaging.batch.message_count": count}
        shared = self.tracer.start_span(name, _NOWHERE, SpanKind.INTERNAL, attributes, _links(spans[:LINKS]), begun)
        for span in spans:
            span.add_link(shared.get_span_context())
            _end(span, error)
        _end(shared, error)

    def _send(self, row: Envelope, context: Context) -> Span:
        type_ = row.type.decode()
        topic = self._topic(type_)
        attributes = _operation("send", topic) | _about(type_, row.id.decode(), row.correlation_id.decode())
        return self.tracer.start_span(f"send {topic}", context, SpanKind.CLIENT, attributes)

    def _topic(self, type_: str) -> str:
        return MESSAGES[type_].topic_of(self.principal).name


class _Batch(TracedBatch):
    """One attempt at a batch."""

    def __init__(self, spans: Spans, source: str) -> None:
        self._spans = spans
        self._source = source
        self._begun = time_ns()
        self._brought: list[tuple[Incoming[Message], str | None]] = []
        self._handled: dict[str, Span] = {}
        """The spans of the messages that are recorded, by their contexts."""
        self._sent: list[Span] = []

    def handles(self, messages: Sequence[Incoming[Message]]) -> None:
        self._brought = [(message, message.traceparent) for message in messages]
        for message in messages:
            if message.traceparent is None or not _is_left_out(message.traceparent):
                span = self._spans.process(message, self._begun)
                message.traceparent = traceparent_of(span)
                if span.is_recording():
                    self._handled[message.traceparent] = span

    def sends(self, messages: Sequence[Outgoing]) -> None:
        if not self._handled:
            return
        for message in messages:
            if message.traceparent is not None and (cause := self._handled.get(message.traceparent)) is not None:
                span = self._spans.create(message, cause)
                message.traceparent = traceparent_of(span)
                self._sent.append(span)

    def succeeds(self) -> None:
        """The transaction is committed."""
        for span in self._sent:
            span.end()
        self._end()

    def fails(self, error: BaseException) -> None:
        """Nothing was committed: the messages are what they were, and will be tried again."""
        for message, traceparent in self._brought:
            message.traceparent = traceparent
        self._end(error)

    def _end(self, error: BaseException | None = None) -> None:
        spans = list(self._handled.values())
        self._spans.together(f"handle {self._source}", spans, len(self._brought), self._begun, error)


class _Mail(TracedMail):
    def __init__(self, span: Span) -> None:
        self._span = span

    def ends(self, outcome: str) -> None:
        self._span.set_attribute("popfax.mail.outcome", outcome)


class _Site:
    """Traces requests: the method, the route and the status, and nothing that anybody typed."""

    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._tracer = spans.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        span = self._tracer.start_span(
            method, _NOWHERE, SpanKind.SERVER, {"http.request.method": method, "url.scheme": scope["scheme"]}
        )
        is_stream = False

        async def noted(event: Event) -> None:
            nonlocal is_stream
            if event["type"] == "http.response.start":
                span.set_attribute("http.response.status_code", event["status"])
                is_stream = any(value.startswith(b"text/event-stream") for _, value in event["headers"])
                if event["status"] >= 500:
                    _fail(span, str(event["status"]))
            await send(event)

        token = attach(set_span_in_context(span, _NOWHERE))
        try:
            await self._app(scope, receive, noted)
        except BaseException as error:
            _fail(span, _kind(error))
            raise
        finally:
            detach(token)
            if (route := _route(scope)) is not None:
                span.set_attribute("http.route", route)
                span.update_name(f"{method} {route}")
            if not is_stream:  # which is open for hours, and never recorded
                span.end()


class _Beginnings(Sampler):
    """Decides on spans that have no parent: what is linked to a recorded span is recorded, of the others a share."""

    def __init__(self, ratio: float) -> None:
        self._share = TraceIdRatioBased(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        is_recorded = any(link.context.trace_flags.sampled for link in links or ())
        sampler = ALWAYS_ON if is_recorded else self._share
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"linked, or {self._share.get_description()}"


class Told(SpanExporter):
    """Counts what the collector takes, and says once when it stops taking spans, and once when it takes them again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        if not fails:
            metrics.SPANS_SENT.inc(len(spans))
        if fails != self._fails:
            self._fails = fails
            if fails:
                log.warning("spans_not_sent")
            else:
                log.info("spans_sent_again")
        return result

    def shutdown(self) -> None:
        """End."""
        self._exporter.shutdown()


class _Queue(BatchSpanProcessor):
    """Keeps a bounded number of spans, which are counted before; and ends soon, whatever the collector does."""

    def on_end(self, span: ReadableSpan) -> None:
        metrics.SPANS_RECORDED.inc()
        super().on_end(span)

    def shutdown(self) -> None:
        """Send what is left. After `STOP_S` no more is sent, and nothing repeated: the SDK would go on for 30 s."""
        last = threading.Timer(STOP_S, self.span_exporter.shutdown)
        last.daemon = True
        last.start()
        super().shutdown()  # type: ignore[no-untyped-call]
        last.cancel()


def _operation(name: str, topic: str) -> dict[str, Any]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.name": topic,
    }


def _about(type_: str, id_: UUID | str, correlation_id: str) -> dict[str, Any]:
    return {
        "messaging.message.id": str(id_),
        "messaging.message.conversation_id": correlation_id,
        "cloudevents.event_type": type_,
    }


def _links(spans: Sequence[Span]) -> list[Link]:
    contexts = [span.get_span_context() for span in spans]
    return [Link(context) for context in contexts if context.is_valid]


def _recorded(traceparent: str) -> Context | None:
    """Return a context in which to record; None if its trace is not recorded."""
    if _is_left_out(traceparent):
        return None
    context = context_of(traceparent)
    return context if get_current_span(context).get_span_context().trace_flags.sampled else None


def _is_left_out(traceparent: str) -> bool:
    """Say at a glance that a trace is not recorded: most are not. Such a context travels on as it is."""
    return traceparent.startswith("00-") and traceparent[-1] in "02468ace"


def _route(scope: Scope) -> str | None:
    """Return the template of the path, with its parameters unfilled; None if there is no such path."""
    route = scope.get("route")
    if route is None:
        return None
    if isinstance(route, Mount):
        return str(route.path)
    return f"{scope.get('root_path', '')}{getattr(route, 'path_format', route.path)}"


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        _fail(span, _kind(error))
    span.end()


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _kind(error: BaseException) -> str:
    return f"outage: {error.cause}" if isinstance(error, Outage) else type(error).__name__
