"""What is recorded of the hops, and what never is: spans of the real shell, relay and site, kept in memory."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from structlog.testing import capture_logs

from popfax_contracts.ledger import UnitsCredited
from popfax_contracts.topics import LEDGER_COMMANDS, LEDGER_EVENTS, Principal
from services.chassis import spans, tracing
from services.chassis.relay import Unsent
from services.chassis.settings import ProcessSettings
from services.chassis.spans import Spans, Told, to_collector
from services.chassis.timers import fire_due
from services.chassis.tracing import Tracing, start_tracing
from tests.collector import Mood, collecting
from tests.simulation.world import drive
from tests.unit.given import id_of
from tests.unit.test_shell import SOON, Kitchen, credit, deadline, ids, timing

SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED, LEFT_OUT = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


class Kept:
    """The spans that were recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.processor = SimpleSpanProcessor(self._exporter)

    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.all() if span.name == name]

    def only(self, name: str) -> Any:
        (span,) = self.named(name)
        return span


@pytest.fixture
def kept(quiet: None) -> Iterator[Kept]:
    """Record with a ratio of 0: only what others record."""
    yield from _recording(0)


@pytest.fixture
def everything(quiet: None) -> Iterator[Kept]:
    """Record with a ratio of 1."""
    yield from _recording(1)


def _recording(ratio: float) -> Iterator[Kept]:
    made = Kept()
    tracing.use(Spans(Principal.LEDGER, made.processor, ratio))
    yield made
    tracing.use(Tracing())


def _with(traceparent: str, kitchen: Kitchen, name: str) -> Any:
    record = kitchen.record(credit(name), name)
    return replace(record, headers=[*record.headers, ("traceparent", traceparent.encode())])


def _ids(span: Any) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def _parent(span: Any) -> str:
    return f"{span.parent.span_id:016x}"


# --- the hops ---


def test_a_message_and_what_follows_it_have_spans_in_its_trace(kept: Kept) -> None:
    kitchen = Kitchen()
    kitchen.comes(_with(RECORDED, kitchen, "c"))
    process = kept.only(f"process {LEDGER_COMMANDS.name}")
    assert (_parent(process), _ids(process)[0], process.kind) == (CALLER, TRACE, SpanKind.CONSUMER)
    created = kept.only(f"create {LEDGER_EVENTS.name}")
    assert created.parent.span_id == process.context.span_id
    assert created.kind is SpanKind.PRODUCER
    (out,) = kitchen.sent()
    trace, span = _ids(created)
    assert out.traceparent is not None
    assert out.traceparent.startswith(f"00-{trace}-{span}-")
    assert created.attributes["messaging.message.id"] == str(out.id)
    assert {span.context.trace_id for span in kept.named("create popfax.ledger.balances")} == {process.context.trace_id}


def test_what_a_batch_shares_is_linked_with_each_of_its_messages(kept: Kept) -> None:
    kitchen = Kitchen()
    traces = [f"00-{uuid4().hex}-{CALLER}-01" for _ in range(3)]
    kitchen.comes(
        *(_with(trace, kitchen, f"c{n}") for n, trace in enumerate(traces)), kitchen.record(credit("other"), "other")
    )
    shared, messages = kept.only("handle messages"), kept.named(f"process {LEDGER_COMMANDS.name}")
    assert shared.attributes["messaging.batch.message_count"] == 4
    assert [link.context.span_id for link in shared.links] == [span.context.span_id for span in messages]
    for span in messages:
        assert [link.context.span_id for link in span.links] == [shared.context.span_id]
    assert {_ids(span)[0] for span in messages} == {trace.split("-")[1] for trace in traces}
    assert shared.parent is None


def test_a_trace_that_is_not_recorded_travels_on_and_is_decided_once(kept: Kept) -> None:
    kitchen = Kitchen()
    kitchen.comes(_with(LEFT_OUT, kitchen, "left"), kitchen.record(credit("new"), "new"))
    left, new = kitchen.sent()
    assert left.traceparent == LEFT_OUT
    assert new.traceparent is not None
    assert int(new.traceparent[-2:], 16) % 2 == 0, "those who get it don't begin one of their own"
    assert kept.all() == ()


def test_what_begins_here_is_recorded_by_the_ratio(everything: Kept) -> None:
    kitchen = Kitchen()
    kitchen.comes(kitchen.record(credit("c"), "c"))
    assert everything.only(f"process {LEDGER_COMMANDS.name}").parent is None
    kitchen.comes(_with(LEFT_OUT, kitchen, "left"))
    assert len(everything.named(f"process {LEDGER_COMMANDS.name}")) == 1


@pytest.mark.parametrize(
    "nonsense", ["", "01", "00-zz-zz-01", f"00-{'0' * 32}-{CALLER}-01", RECORDED.upper(), "é" * 55]
)
def test_what_is_no_context_begins_a_trace(everything: Kept, nonsense: str) -> None:
    kitchen = Kitchen()
    kitchen.comes(_with(nonsense, kitchen, "c"))
    assert everything.only(f"process {LEDGER_COMMANDS.name}").parent is None
    assert kitchen.answers() == ids("c")


def test_a_message_that_fails_keeps_its_place_and_says_what_failed_and_no_more(kept: Kept) -> None:
    kitchen = Kitchen()
    kitchen.failing.add(id_of("c"))
    kitchen.comes(_with(RECORDED, kitchen, "c"))
    attempts = kept.named(f"process {LEDGER_COMMANDS.name}")
    assert {(span.attributes["error.type"], span.status.status_code) for span in attempts} == {
        ("Bug", StatusCode.ERROR)
    }
    assert {_parent(span) for span in attempts} == {CALLER}
    assert not any(span.events or span.status.description for span in kept.all())
    assert not kept.named(f"create {LEDGER_EVENTS.name}")
    kitchen.failing.clear()
    kitchen.retry(*(row.parked.id for row in kitchen.database.contents.parked.values()))
    retried = kept.named(f"process {LEDGER_COMMANDS.name}")[-1]
    assert (_parent(retried), retried.status.status_code) == (CALLER, StatusCode.UNSET)
    assert kept.only(f"create {LEDGER_EVENTS.name}").parent.span_id == retried.context.span_id


def test_without_a_collector_the_context_travels_on_as_it_came() -> None:
    kitchen = Kitchen()
    kitchen.comes(_with(RECORDED, kitchen, "c"))
    assert [out.traceparent for out in kitchen.sent()] == [RECORDED]


def test_a_timer_begins_a_trace_that_is_linked_to_the_one_that_set_it(kept: Kept) -> None:
    kitchen = timing({"c": [deadline(SOON)]})
    kitchen.comes(_with(RECORDED, kitchen, "c"))
    kitchen.clock.now = SOON
    drive(fire_due(kitchen.shell))
    fired, setter = kept.only("process timers"), kept.only(f"process {LEDGER_COMMANDS.name}")
    assert fired.parent is None
    assert setter.context.span_id in {link.context.span_id for link in fired.links}
    assert _ids(fired)[0] != TRACE


def test_the_relay_publishes_in_the_trace_of_each_row(kept: Kept) -> None:
    rows = [_unsent(1, RECORDED), _unsent(2, LEFT_OUT), _unsent(3, None)]
    with tracing.tracing().publishing(rows):
        pass
    sent, shared = kept.only("send popfax.ledger.events"), kept.only("publish batch")
    assert (_ids(sent)[0], _parent(sent), sent.kind) == (TRACE, CALLER, SpanKind.CLIENT)
    assert sent.attributes["messaging.message.id"] == rows[0].id.decode()
    assert shared.attributes["messaging.batch.message_count"] == 3
    with pytest.raises(TimeoutError), tracing.tracing().publishing(rows):
        raise TimeoutError
    assert kept.named("send popfax.ledger.events")[-1].attributes["error.type"] == "TimeoutError"


def _unsent(seq: int, traceparent: str | None) -> Unsent:
    return Unsent(
        seq=seq,
        id=str(uuid4()).encode(),
        type=UnitsCredited.TYPE.encode(),
        key=b"key",
        value=b"{}",
        correlation_id=b"correlation",
        causation_id=b"causation",
        actor=None,
        traceparent=None if traceparent is None else traceparent.encode(),
        made_at=b"2031-01-01 00:00:00+00",
        requester=None,
    )


# --- requests ---


async def _answer(request: Request) -> Response:
    return JSONResponse({}, int(request.path_params["status"]))


async def _fail(_: Request) -> Response:
    raise ValueError("Nina Petit")


async def _stream(_: Request) -> Response:
    return Response("data: x\n\n", media_type="text/event-stream")


async def _ask(method: str, path: str, query: str = "", **headers: str) -> int:
    """Send a request to a site; return the status."""
    inner = Starlette(routes=[Route("/answers/{status}", _answer), Route("/fails", _fail), Route("/events", _stream)])
    app = tracing.tracing().site(Starlette(routes=[Mount("/v1", inner)]))
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "scheme": "http", "path": path, "headers": given}
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Any) -> None:
        statuses.extend([event["status"]] if "status" in event else [])

    with suppress(ValueError):
        await app(scope | {"query_string": query.encode(), "root_path": "", "http_version": "1.1"}, receive, send)
    return int(statuses[0])


async def test_a_request_is_recorded_by_its_route_and_status_and_nothing_that_was_typed(everything: Kept) -> None:
    await _ask("GET", "/v1/answers/204", "email=nina@example.com", traceparent=LEFT_OUT)
    await _ask("GET", "/v1/answers/503")
    await _ask("GET", "/v1/fails")
    await _ask("GET", "/nina@example.com")
    await _ask("NINA", "/nina")
    found = [(span.name, dict(span.attributes or {})) for span in everything.all()]
    get = {"http.request.method": "GET", "url.scheme": "http"}
    answers, fails = {"http.route": "/v1/answers/{status}"}, {"http.route": "/v1/fails"}
    status = "http.response.status_code"
    assert found == [
        ("GET /v1/answers/{status}", {**get, **answers, status: 204}),
        ("GET /v1/answers/{status}", {**get, **answers, status: 503, "error.type": "503"}),
        ("GET /v1/fails", {**get, **fails, status: 500, "error.type": "ValueError"}),
        ("GET", {**get, status: 404}),
        ("_OTHER", {**get, "http.request.method": "_OTHER", status: 404}),
    ]
    assert not any(span.events or span.status.description for span in everything.all())


async def test_a_stream_that_stays_open_is_not_recorded(everything: Kept) -> None:
    assert await _ask("GET", "/v1/events") == 200
    assert everything.all() == ()


async def test_who_calls_does_not_choose_what_is_recorded(kept: Kept) -> None:
    assert await _ask("GET", "/v1/answers/200", traceparent=RECORDED) == 200
    assert kept.all() == ()


# --- the collector ---


def _to(url: str) -> Spans:
    return to_collector(Principal.LEDGER, ProcessSettings.model_validate(_SETTINGS | {"otlp_endpoint": url}))


_SETTINGS = {"database_url": "postgresql+psycopg://ledger@localhost/ledger", "trace_ratio": 1}


def _record(made: Spans, count: int) -> float:
    """Record spans; return how long that took, in seconds."""
    begun = time.monotonic()
    for _ in range(count):
        made.tracer.start_span("span").end()
    return time.monotonic() - begun


async def test_what_is_left_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "STOP_S", 30)  # for a machine that is busy
    with collecting() as collector:
        made = _to(collector.url)
        _record(made, 700)
        await made.stop()
        assert len(collector.spans()) == 700
        assert {span.service for span in collector.spans()} == {"ledger"}


@pytest.mark.parametrize("mood", [Mood.REFUSING, Mood.HANGING, None])
async def test_a_collector_that_takes_nothing_costs_neither_time_nor_memory(
    mood: Mood | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "STOP_S", 0.3)
    monkeypatch.setattr(spans, "QUEUE", 1000)
    monkeypatch.setattr(spans, "ANSWER_S", 120)
    with collecting() as collector:
        url = collector.url
        if mood is None:
            collector.server_close()  # nobody listens
        else:
            collector.mood = mood
        made = _to(url)
        assert _record(made, 5000) < 60, "waiting for the collector would take longer"
        begun = time.monotonic()
        await made.stop()
        assert time.monotonic() - begun < 25
        assert collector.bodies == []
    _ended()


def _ended() -> None:
    """Wait until the threads have ended: hypothesis does not like it when others use `random` meanwhile."""
    for thread in threading.enumerate():
        if thread.name.startswith(("Otel", "last spans")):
            thread.join(30)
            assert not thread.is_alive()


def test_it_is_told_once_that_spans_are_not_taken_and_once_that_they_are_again() -> None:
    results = [FAILURE, FAILURE, SUCCESS, SUCCESS]

    class Fickle(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return results.pop(0)

    told, before = Told(Fickle()), _sent()
    with capture_logs() as logs:
        for _ in range(4):
            told.export([ReadableSpan("span")] * 5)
    assert [entry["event"] for entry in logs] == ["spans_not_sent", "spans_sent_again"]
    assert _sent() - before == 10


def _sent() -> float:
    return REGISTRY.get_sample_value("popfax_spans_sent_total") or 0


def test_another_machine_is_told_nothing_without_tls_unless_that_is_meant() -> None:
    remote = _SETTINGS | {"otlp_endpoint": "http://collector.example:4318/v1/traces"}
    with pytest.raises(ValidationError, match="otlp_endpoint: give an https:// address; or set allow_unprotected"):
        ProcessSettings.model_validate(remote)
    assert ProcessSettings.model_validate(remote | {"allow_unprotected": True}).otlp_endpoint is not None
    assert ProcessSettings.model_validate(_SETTINGS | {"otlp_endpoint": "https://collector.example/v1/traces"})


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.chassis.spans", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    settings = ProcessSettings.model_validate(_SETTINGS | {"otlp_endpoint": "http://127.0.0.1:4318/v1/traces"})
    with pytest.raises(SystemExit, match="LEDGER_OTLP_ENDPOINT needs the extra `tracing`"):
        start_tracing(Principal.LEDGER, settings)


def test_nothing_of_the_sdk_is_imported_without_a_collector() -> None:
    start_tracing(Principal.LEDGER, ProcessSettings.model_validate(_SETTINGS))
    assert type(tracing.tracing()) is Tracing
