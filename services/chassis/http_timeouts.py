"""HTTP time-outs, and a limit on connections: what uvicorn lacks.

uvicorn limits how long a connection is idle between two requests, and how many requests are in progress. It waits
forever for the rest of a request and for a slow reader of its response, and it accepts every connection.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""From the connection, or the previous response, to the last byte of a request's head."""

BODY_S = 20.0
"""From there to the last byte of its body."""

UNREAD_S = 30.0
"""How long a response waits for its reader."""

REST_S = 5
"""How long a connection stays open between two requests."""

MAX_HEAD_BYTES = 16 * 1024
"""More than a token and a cookie need."""


class TimeoutProtocol(H11Protocol):
    """HTTP/1.1 with a time-out for every wait for the peer."""

    def __init__(self, *args: Any, most: int, **more: Any) -> None:
        """Accept `most` connections, nine tenths of them from one address: others and probes find room."""
        super().__init__(*args, **more)
        self._most = most
        self._awaited: tuple[float, object] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection if there is room for it."""
        super().connection_made(transport)
        same = [each for each in self.connections if _host(each) == _host(self)]
        if len(self.connections) > self._most or len(same) > self._most * 9 // 10:
            transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Receive data."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        super().on_response_complete()
        self._watch()
        self._expect_reader()

    def pause_writing(self) -> None:
        """Wait for a reader."""
        super().pause_writing()
        self._expect_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        for timer in (self._deadline, self._reading):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Set a deadline for what the peer owes us. More bytes of the same do not extend it."""
        timeout = {h11.IDLE: HEAD_S, h11.SEND_BODY: BODY_S}.get(self.conn.their_state)
        awaited = None if timeout is None else (timeout, self.cycle)
        if awaited == self._awaited:
            return
        self._awaited = awaited
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if timeout is not None:
            self._deadline = self.loop.call_later(timeout, self.transport.abort)

    def _expect_reader(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self.loop.call_later(UNREAD_S, self._give_up_unless_read)

    def _give_up_unless_read(self) -> None:
        # Either a response is stuck, or it is complete and its last bytes are not read.
        if self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()


def _host(connection: object) -> str | None:
    client: tuple[str, int] | None = getattr(connection, "client", None)
    return client[0] if client else None
