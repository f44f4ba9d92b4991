"""TCP between the processes of a hub: in order in each direction, in pieces, and cut anywhere.

What arrives waits in the system's buffer until the process reads it, however long it is frozen. A connection that is
cut has delivered a part of what was on its way, in each direction; either side learns of that, or nobody does and each
waits. A process that is killed has its connections closed. What is not here: flow control, half-open connections whose
writer has closed, TLS.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from tests.simulation.hub import Process

Wrote = Callable[[Process, bytes], None]
"""Called with what a process has written."""


class End(asyncio.Transport):
    """One end of a connection, as its process uses it."""

    peer: "End"

    def __init__(self, process: Process, protocol: asyncio.Protocol, wrote: Wrote) -> None:
        super().__init__()
        self.process = process
        self._hub = process.hub
        self._protocol = protocol
        self._wrote = wrote
        self._buffer = b""
        self._over: list[Exception | None] = []
        """How the other side, or the network, has ended it, once it has."""
        self._woken = False
        self._opened = self._closed = False
        self._arrives_at = 0.0
        """When the last that was sent arrives: nothing overtakes it."""
        self._delivered_until = inf
        """When the last piece arrives that is delivered, once the connection is cut."""
        process.on_death.append(self._die)

    # --- the transport ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closed

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            return
        said = bytes(data)
        self._wrote(self.process, said)
        random = self._hub.random
        cuts = sorted(random.randrange(len(said)) for _ in range(random.choice([0, 0, 0, 1, 3])))
        for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
            if begin < end:
                self._send(partial(self.peer._arrive, said[begin:end]))

    def close(self) -> None:
        if not self._closed:
            self._end(None)
            self._send(partial(self.peer._hear_of_the_end, None))

    def abort(self) -> None:
        if not self._closed:
            self._end(None)
            error = ConnectionResetError("reset") if self._hub.random.random() < 0.5 else None
            self._send(partial(self.peer._hear_of_the_end, error))

    # --- what happens to it ---

    def open(self) -> None:
        """Tell the protocol of the connection, unless it has ended before the process came to it."""
        if not self._closed:
            self._opened = True
            self._protocol.connection_made(self)

    def _send(self, arrives: Callable[[], None]) -> None:
        self._arrives_at = max(self._arrives_at, self._hub.now + self._hub.latency())
        self._hub.at(self._arrives_at, arrives)

    def _arrive(self, data: bytes) -> None:
        if self._hub.now > self._delivered_until:
            return
        if self._closed:  # the system answers what nobody reads
            self._send(partial(self.peer._hear_of_the_end, ConnectionResetError("reset")))
            return
        self._buffer += data
        self._wake()

    def _hear_of_the_end(self, error: Exception | None) -> None:
        if self._hub.now <= self._delivered_until:
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self._over = self._over or [error]
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self.process.post(self._look)

    def _look(self) -> None:
        """Read all that has arrived, in one piece; or else the end. As on a selector, each has a turn of its own."""
        self._woken = False
        if self._closed:
            return
        if self._buffer:
            data, self._buffer = self._buffer, b""
            self._protocol.data_received(data)
            if self._over:
                self._wake()
        elif self._over:
            (error,) = self._over
            if error is not None:
                self._end(error)
            elif not self._protocol.eof_received():
                self.close()

    def _end(self, error: Exception | None) -> None:
        self._closed = True
        if self._die in self.process.on_death:
            self.process.on_death.remove(self._die)
        if self._opened:
            self.process.post(self._tell_of_the_end, error)

    def _tell_of_the_end(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)

    def _die(self) -> None:
        self._closed = True
        self._send(partial(self.peer._hear_of_the_end, None))

    def cut(self) -> None:
        """Cut the connection. What is on its way arrives, or a part of it, or nothing."""
        hub, random = self._hub, self._hub.random
        told = random.random() < 0.7
        for end in (self, self.peer):
            until = hub.now + random.choice([0.0, 0.001, 0.05, 1.0])
            end._delivered_until = min(end._delivered_until, until)
            if told:
                hub.at(until + hub.latency(), partial(end._lose, ConnectionResetError("cut")))


class Listener:
    """A port at which a process accepts connections."""

    def __init__(self, process: Process, made: Callable[[], asyncio.Protocol], wrote: Wrote) -> None:
        self.process = process
        self.refuses_until = self.vanished_until = 0.0
        """Until when it refuses connections, or says nothing to whoever connects."""
        self.ends: list[End] = []
        self._made = made
        self._wrote = wrote

    async def connect(self, client: Process, made: Callable[[], asyncio.Protocol]) -> tuple[End, asyncio.Protocol]:
        """Connect a client. Raises `ConnectionRefusedError`."""
        hub = self.process.hub
        await asyncio.sleep(2 * hub.latency())
        if hub.now < self.vanished_until:
            await asyncio.sleep(self.vanished_until - hub.now)
        if hub.now < self.refuses_until:
            raise ConnectionRefusedError("refused")
        protocol = made()
        near, far = End(client, protocol, self._wrote), End(self.process, self._made(), self._wrote)
        near.peer, far.peer = far, near
        self.ends = [*(end for end in self.ends if not end.is_closing()), far]
        near._send(partial(self.process.post, far.open))
        near.open()
        return near, protocol
