"""Groups' web application on a real port, and a plain client for it."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from services.chassis.health import HttpServer, health_app
from services.groups.settings import GroupsSettings
from services.groups.web.app import Web
from tests.integration.recorder import eventually
from tests.tokens import token, write_keys

WITHIN_S = 20.0


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, whose media type must be JSON."""
        assert self.headers["content-type"] in {"application/json", "application/problem+json"}, self.headers
        return json.loads(self.text)

    @property
    def problem(self) -> tuple[int, str]:
        """The status and the code of a problem."""
        assert self.headers["content-type"] == "application/problem+json", (self.status, self.text)
        assert self.json["status"] == self.status
        assert self.json["type"] == f"urn:popfax:problem:{self.json['code']}"
        return self.status, self.json["code"]


@dataclass(frozen=True)
class Client:
    """A client of one address, with or without a token."""

    host: str
    port: int
    bearer: str | None = None

    def as_(self, subscriber_id: UUID, **claims: Any) -> "Client":
        """Return the same client with a subscriber's token."""
        return self.with_(token(subscriber_id, **claims))

    def with_(self, bearer: str | None) -> "Client":
        """Return the same client with this token."""
        return Client(self.host, self.port, bearer)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request, and wait for the response."""
        with self._asked(method, path, body, headers) as found:
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read().decode())

    def get(self, path: str) -> Answer:
        """Send a GET request."""
        return self.ask("GET", path)

    def post(self, name: str, body: Any, key: str | None = None) -> Answer:
        """Post a command."""
        return self.ask("POST", f"/v1/commands/{name}", body, **({"Idempotency-Key": key} if key else {}))

    @contextmanager
    def events(self, seen: str | None = None) -> Iterator["Events"]:
        """Connect to the stream of changes."""
        headers = {"Last-Event-ID": seen} if seen else {}
        with self._asked("GET", "/v1/events", None, headers) as found:
            assert found.status == 200, found.read()
            assert found.getheader("content-type", "").startswith("text/event-stream")
            yield Events(found)

    @contextmanager
    def _asked(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WITHIN_S)
        if self.bearer is not None:
            headers = {"Authorization": f"Bearer {self.bearer}", **headers}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if content is not None:
            headers = {"Content-Type": "application/json", **headers}
        try:
            connection.request(method, path, content, headers)
            yield connection.getresponse()
        finally:
            connection.close()


class Events:
    """A stream of server-sent events, read one by one."""

    def __init__(self, stream: http.client.HTTPResponse) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, str]:
        """Wait for the next event, skipping comments."""
        found: dict[str, str] = {}
        while line := self._stream.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name in {"id", "event", "data"}:
                found[name] = value
            elif not name and "event" in found:
                return found
        raise StopIteration


@contextmanager
def serving(url: str, directory: Path, watch: Callable[[Web], None] = lambda _: None, **more: Any) -> Iterator[Client]:
    """Run the web application on a database, in a thread with its own event loop."""
    given = {
        "kafka_bootstrap": "127.0.0.1:1",
        "kafka_username": "groups",
        "kafka_password": "unused",
        "database_url": url,
        "jwt_jwks": str(write_keys(directory)),
    }
    settings = GroupsSettings.model_validate(given | more)
    started: list[HttpServer] = []
    ready = threading.Event()

    async def serve() -> None:
        site = Web(settings, lambda: None)
        watch(site)
        server = HttpServer(health_app(lambda: True, {}, site), "127.0.0.1", 0, site.hang_up)
        started.append(server)
        running = asyncio.create_task(server.serve())
        await eventually(lambda: server.started, "the server listens")
        ready.set()
        await running
        await site.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(WITHIN_S)
        yield Client("127.0.0.1", started[0].port or 0)
    finally:
        started[0].should_exit = True
        thread.join(WITHIN_S)
        assert not thread.is_alive(), "the server does not stop"
