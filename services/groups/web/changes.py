"""Server-sent events: tell a page that something of what it shows has changed, and nothing more.

One look a second for everybody who is connected, and none while nobody is: a word for each that changes with what they
are shown (`queries.fingerprints`). The word is the event's id, so whoever comes back says which they saw last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.groups.web import metrics, sessions
from services.groups.web.auth import Caller
from services.groups.web.queries import fingerprints

log = structlog.get_logger(__name__)

POLL_S = 1.0
HEARTBEAT_S = 15.0
"""A comment goes out this often: whatever stands between must not take the silence for an end."""

_SHARE = 10
"""Looking takes a tenth of the time at most: the more there is to look at, the rarer."""

Reading = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class Listener:
    """Somebody who is connected, and what they saw last."""

    def __init__(self, caller: Caller, seen: str | None) -> None:
        self.caller = caller
        self.seen = seen
        self.gone = False
        self._now: str | None = None
        self._news = asyncio.Event()

    def tell(self, fingerprint: str) -> None:
        """Take note of what there is to be seen now."""
        if fingerprint != self.seen:
            self._now = fingerprint
            self._news.set()

    def leave(self) -> None:
        """End their stream."""
        self.gone = True
        self._news.set()

    async def texts(self) -> AsyncIterator[str]:
        """Return what goes out to them, until they leave or their token ends."""
        yield "retry: 2000\n: connected\n\n"
        while not self.gone and (left := (self.caller.until - datetime.now(UTC)).total_seconds()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, HEARTBEAT_S)):
                    await self._news.wait()
            if not self._news.is_set():
                yield ": still here\n\n"
                continue
            self._news.clear()
            if self._now is not None and self._now != self.seen:
                # The first word is what they see now, if they read after they connected.
                kind = "connected" if self.seen is None else "changed"
                self.seen = self._now
                yield f"id: {self.seen}\nevent: {kind}\ndata: {kind}\n\n"


class Full(Exception):
    """Nobody else can connect; or, with `of_one`, this person has as many streams as anybody may have."""

    def __init__(self, of_one: bool) -> None:
        super().__init__("of one person" if of_one else "of all")
        self.of_one = of_one


class Feed:
    """Everybody who is connected to this process, and the one task that looks for all of them."""

    def __init__(self, reading: Reading, most: int, most_each: int, poll_s: float = POLL_S) -> None:
        self._reading = reading
        self._most = most
        self._most_each = most_each
        self._poll_s = poll_s
        self._listeners: set[Listener] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        metrics.STREAMS.set_function(lambda: len(self))

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, caller: Caller, seen: str | None) -> Listener:
        """Connect somebody; `seen` is the last word that they got, if they were here before. Raises `Full`."""
        if self._closed or len(self._listeners) >= self._most:
            metrics.STREAMS_REFUSED.labels("process").inc()
            raise Full(of_one=False)
        if sum(1 for each in self._listeners if each.caller.id == caller.id) >= self._most_each:
            metrics.STREAMS_REFUSED.labels("person").inc()
            raise Full(of_one=True)
        listener = Listener(caller, seen)
        self._listeners.add(listener)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return listener

    def part(self, listener: Listener) -> None:
        """Disconnect somebody. After the last one nobody looks any more."""
        self._listeners.discard(listener)
        if not self._listeners and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def close(self) -> None:
        """End all streams: the process is about to stop."""
        self._closed = True
        for listener in self._listeners:
            listener.leave()

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            try:
                await self._tell_all()
            except Exception as error:  # whatever it is, everybody who is connected depends on the next look
                log.warning("changes_not_seen", error=type(error).__name__)
            await asyncio.sleep(max(self._poll_s, (clock() - begun) * _SHARE))

    async def _tell_all(self) -> None:
        asked: set[UUID] = {listener.caller.id for listener in self._listeners}
        visits = {visit for listener in self._listeners if (visit := listener.caller.session) is not None}
        async with self._reading() as connection:
            found = await fingerprints(connection, asked)
            go_on = await sessions.going_on(connection, visits) if visits else set()
        for listener in self._listeners:
            if listener.caller.session in visits - go_on:
                listener.leave()
            if (fingerprint := found.get(listener.caller.id)) is not None:
                listener.tell(fingerprint)


class EventStream(Response):
    """The answer that does not end: one listener, for as long as they stay."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, caller: Caller, seen: str | None, refuse: Callable[[Full], Response]) -> None:
        """`refuse` makes the answer for somebody who can't connect."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._caller = caller
        self._seen = seen
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until somebody has had enough; to HEAD, none."""
        begin = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(begin)
            return await send({"type": "http.response.body"})
        try:
            listener = self._feed.join(self._caller, self._seen)
        except Full as full:
            return await self._refuse(full)(scope, receive, send)
        watching = asyncio.create_task(_watch(receive, listener))
        try:
            await send(begin)
            async for text in listener.texts():
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watching.cancel()
            self._feed.part(listener)


async def _watch(receive: Receive, listener: Listener) -> None:
    """Note when they hang up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.leave()
