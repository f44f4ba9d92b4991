"""What aiokafka does when a connection was lost in the moment before something is written to it."""

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from services.chassis.tolerant import tolerate_lost_connections


async def _write_to_a_lost_connection(name: str, *arguments: Any) -> AIOKafkaConnection:
    """Lose a connection behind aiokafka's back, as a broker that is killed does, and have it write."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection: Any = AIOKafkaConnection("127.0.0.1", port)
    connection._closed_fut = asyncio.get_running_loop().create_future()
    connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", port)
    connection._read_task = asyncio.get_running_loop().create_future()
    connection._versions = {}
    connection._writer.transport.abort()
    await asyncio.sleep(0.05)
    try:
        getattr(connection, name)(*arguments)
    finally:
        server.close()
    return connection


@pytest.mark.parametrize(("name", "argument"), [("send", ApiVersionRequest()), ("_send_sasl_token", b"token")])
def test_a_lost_connection_is_a_broken_one(name: str, argument: Any) -> None:
    """Without ours it is uvloop's RuntimeError, which ends the task that keeps the metadata up to date."""
    tolerate_lost_connections()
    tolerate_lost_connections()
    unguarded = getattr(AIOKafkaConnection, name).__wrapped__
    assert not hasattr(unguarded, "__wrapped__"), "it is put around once"
    with pytest.raises(KafkaConnectionError):
        uvloop.run(_write_to_a_lost_connection(name, argument, True))


def test_the_guard_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    tolerate_lost_connections()
    monkeypatch.setattr(AIOKafkaConnection, "send", AIOKafkaConnection.send.__wrapped__)
    with pytest.raises(RuntimeError, match="closed") as raised:
        uvloop.run(_write_to_a_lost_connection("send", ApiVersionRequest()))
    assert not isinstance(raised.value, KafkaConnectionError), "take the guard away: aiokafka or uvloop have changed"
