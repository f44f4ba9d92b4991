"""What a real server does with connections that take their time, take room, or bring too much: raw sockets."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services.chassis import http_timeouts
from services.chassis.health import HttpServer
from tests.e2e.driver import wait
from tests.integration.recorder import eventually

MANY = 8 * 1024 * 1024
WITHIN_S = 10.0


async def _length(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def _much(_: Request) -> Response:
    return Response(b"x" * MANY)


async def _never_reads(_: Request) -> Response:
    return PlainTextResponse("done")


async def _slow(_: Request) -> Response:
    await asyncio.sleep(1.5)
    return PlainTextResponse("at last")


APP = Starlette(
    routes=[
        Route("/length", _length, methods=["POST"]),
        Route("/much", _much),
        Route("/deaf", _never_reads, methods=["POST"]),
        Route("/slow", _slow),
    ]
)


@contextmanager
def serving(connections: int) -> Iterator[int]:
    """A server in a thread with a loop of its own, and its port."""
    server = HttpServer(APP, "127.0.0.1", 0, connections=connections)
    ready = threading.Event()

    async def serve() -> None:
        running = asyncio.create_task(server.serve())
        await eventually(lambda: server.started, "the server listens")
        ready.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(WITHIN_S)
        yield server.port or 0
    finally:
        server.should_exit = True
        thread.join(WITHIN_S)
        assert not thread.is_alive(), "the server does not stop"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short time-outs."""
    for name in ("HEAD_S", "BODY_S", "UNREAD_S", "REST_S"):
        monkeypatch.setattr(http_timeouts, name, 1)
    with serving(10) as made:
        yield made


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)


def _until_closed(connection: socket.socket) -> bytes:
    """All that comes until the other side has had enough; a reset is an end, too."""
    found = bytearray()
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return bytes(found)


def _gives_up_within_s(connection: socket.socket, send: Callable[[int], None]) -> float:
    """How long the server bears somebody who sends something every tenth of a second."""
    begun = time.monotonic()
    connection.settimeout(0.1)
    for count in range(int(WITHIN_S * 10)):
        try:
            send(count)
            if not connection.recv(1):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("it waits forever")
    return time.monotonic() - begun


def test_a_connection_that_says_nothing_is_ended(port: int) -> None:
    with closing(_connect(port)) as silent:
        begun = time.monotonic()
        assert _until_closed(silent) == b""
        assert 0.8 < time.monotonic() - begun < 9


def test_a_head_that_comes_byte_by_byte_is_ended(port: int) -> None:
    with closing(_connect(port)) as slow:
        slow.sendall(b"GET /length HTTP/1.1\r\nX-Slow: ")
        assert 0.8 < _gives_up_within_s(slow, lambda _: slow.sendall(b"x")) < 9


def test_the_second_head_of_a_connection_is_ended_alike(port: int) -> None:
    with closing(_connect(port)) as slow:
        slow.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"G")
        assert 0.5 < _gives_up_within_s(slow, lambda _: slow.sendall(b"E")) < 9


@pytest.mark.parametrize("path", [b"/length", b"/deaf"], ids=["which is read", "which nobody reads"])
def test_a_body_that_comes_byte_by_byte_is_ended(port: int, path: bytes) -> None:
    with closing(_connect(port)) as slow:
        slow.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        if path == b"/deaf":
            assert b" 200 " in slow.recv(65536)
        assert 0.8 < _gives_up_within_s(slow, lambda _: slow.sendall(b"x")) < 9


def test_a_chunked_body_that_never_ends_is_ended(port: int) -> None:
    with closing(_connect(port)) as slow:
        slow.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert 0.8 < _gives_up_within_s(slow, lambda _: slow.sendall(b"1\r\nx\r\n")) < 9


def test_an_answer_that_nobody_reads_is_ended(port: int) -> None:
    with closing(socket.socket()) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(WITHIN_S)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3.5)
        assert len(_until_closed(deaf)) < MANY


def test_a_connection_at_rest_is_ended(port: int) -> None:
    with closing(_connect(port)) as resting:
        resting.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert _until_closed(resting).startswith(b"HTTP/1.1 200")


def test_an_answer_may_take_its_time(port: int) -> None:
    """Patience is for what the peer owes us, not for what we owe it: events go out for hours."""
    with closing(_connect(port)) as patient:
        patient.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert _until_closed(patient).endswith(b"at last")


def test_a_head_that_is_too_long_is_refused(port: int) -> None:
    with closing(_connect(port)) as long:
        long.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Long: ")
        sent = 0
        with suppress(OSError):
            while sent < http_timeouts.MAX_HEAD_BYTES * 4:
                sent += long.send(b"x" * 1024)
                time.sleep(0.005)
        assert sent < http_timeouts.MAX_HEAD_BYTES * 4
        said = _until_closed(long)
        assert said == b"" or said.startswith(b"HTTP/1.1 400")


def test_connections_have_a_bound_and_one_address_leaves_room() -> None:
    with serving(10) as port, ExitStack() as open_:
        held = [open_.enter_context(closing(_connect(port))) for _ in range(9)]
        time.sleep(0.2)
        for number in range(5):
            refused = open_.enter_context(closing(_connect(port)))
            assert _until_closed(refused) == b"", number
        others = socket.socket()
        others.bind(("127.0.0.2", 0))  # another address of this machine
        others.settimeout(WITHIN_S)
        others.connect(("127.0.0.1", port))
        with closing(others):
            others.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert _until_closed(others).endswith(b"at last")
        held[0].close()
        wait(lambda: _asks(port).endswith(b"at last"), "room for another")


def _asks(port: int) -> bytes:
    """All that comes to a new connection that asks; nothing if there is no room for it."""
    with closing(_connect(port)) as asking, suppress(OSError):
        asking.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return _until_closed(asking)
    return b""


def test_speaks_no_other_protocol(port: int) -> None:
    with closing(_connect(port)) as asking:
        asking.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert asking.recv(65536).startswith(b"HTTP/1.1 200")
