"""A collector of traces: takes OTLP over HTTP as a real one does, and shows what it got. It can misbehave."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Mood(Enum):
    """How it answers."""

    GOOD = auto()
    REFUSING = auto()
    """It says that it can't take anything now."""
    HANGING = auto()
    """It accepts connections, and says nothing."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span that was received."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """The ids of the spans that it links to."""
    failed: bool
    began: int
    ended: int


class Collector(ThreadingHTTPServer):
    """Listens on a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.bodies: list[bytes] = []
        self.mood = Mood.GOOD
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        """Where it takes traces."""
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[Span]:
        """Everything received so far."""
        return [span for body in list(self.bodies) for span in _spans(ExportTraceServiceRequest.FromString(body))]


class _Request(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.mood is Mood.HANGING:
            self.server.let_go.wait()
            return
        if self.server.mood is Mood.GOOD:
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            self.server.bodies.append(gzip.decompress(body))
        self.send_response(200 if self.server.mood is Mood.GOOD else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.let_go.set()
        collector.shutdown()
        collector.server_close()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in request.resource_spans:
        service = _attributes(of_resource.resource)["service.name"]
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    service,
                    span.name,
                    span.kind,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    _attributes(span),
                    tuple(link.span_id.hex() for link in span.links),
                    span.status.code == 2,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _attributes(owner: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in owner.attributes}
