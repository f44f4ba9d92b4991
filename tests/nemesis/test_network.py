"""Connections can be cut, slowed and refused, and are whole again afterwards."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from deploy.local.ports import LOOPBACK
from tests.nemesis.proxy import Network

SILENT_S = 0.3


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        """Serve a connection."""
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def network() -> Iterator[Network]:
    """A network with one link, to a server that sends back what it gets."""
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), _Echo) as server, Network(["a~b"]) as made:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.links["a~b"].lead_to(server.server_address[1])
        yield made
        server.shutdown()
        thread.join()


def _connected(network: Network) -> socket.socket:
    return socket.create_connection((LOOPBACK, network.links["a~b"].port), timeout=10)


def _echo(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return connection.recv(1024)


def test_what_is_sent_over_a_cut_connection_arrives_once_it_is_mended(network: Network) -> None:
    with _connected(network) as connection:
        assert _echo(connection, b"1") == b"1"
        network.set(["a~b"], cut=True)
        connection.settimeout(SILENT_S)
        with pytest.raises(TimeoutError):
            _echo(connection, b"2")
        with _connected(network) as other:
            other.settimeout(SILENT_S)
            with pytest.raises(TimeoutError):
                _echo(other, b"3")
            network.set(["a~b"])
            for each, text in ((connection, b"2"), (other, b"3")):
                each.settimeout(10)
                assert each.recv(1024) == text


def test_a_slow_connection_takes_its_time(network: Network) -> None:
    network.set(["a~b"], delay_s=SILENT_S)
    with _connected(network) as connection:
        began = time.monotonic()
        assert _echo(connection, b"1") == b"1"
        assert time.monotonic() - began >= 2 * SILENT_S  # there, and back


def test_a_connection_is_refused_until_it_is_mended(network: Network) -> None:
    network.set(["a~b"], refuses=True)
    with _connected(network) as connection:
        assert connection.recv(1024) == b""
    network.set(["a~b"])
    with _connected(network) as connection:
        assert _echo(connection, b"1") == b"1"
