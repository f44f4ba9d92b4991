"""What a container orchestrator and Prometheus ask a service over HTTP.

`/live`: the consume loop and its client get on (otherwise restart the process, or wait until `watchdog` ends it).
`/ready`: the database answers and has a schema that suits this version, and Kafka's client is in the group and gets
answers about every assigned partition; each failing check says why. `/metrics`: metrics in Prometheus' text format.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socket import socket
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from services.chassis import http_timeouts

TICK_S = 0.5
"""How long the server may take to notice that it has to stop."""

Check = Callable[[], Awaitable[str | None]]
"""Returns why a service is not ready, None if it is."""


class Site(Protocol):
    """What a service serves besides health and metrics, from the same process."""

    @property
    def app(self) -> ASGIApp:
        """Return the application, which gets every other path."""

    def hang_up(self) -> None:
        """End responses that do not end by themselves, since the process is about to stop."""

    async def close(self) -> None:
        """Release all resources."""


def health_app(live: Callable[[], bool], checks: dict[str, Check], site: Site | None = None) -> Starlette:
    """Return the application; `checks` are the parts of readiness, by name."""

    async def is_live(_: Request) -> Response:
        return JSONResponse({"live": live()}, 200 if live() else 503)

    async def is_ready(_: Request) -> Response:
        found = dict(zip(checks, await asyncio.gather(*(_bounded(check) for check in checks.values())), strict=True))
        passed = {name: reason is None for name, reason in found.items()}
        why = {name: reason for name, reason in found.items() if reason is not None}
        return JSONResponse(passed | {"why": why} if why else passed, 503 if why else 200)

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(generate_latest)  # tens of milliseconds, in which people would wait for a page
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    ours = [Route("/live", is_live), Route("/ready", is_ready), Route("/metrics", metrics)]
    app = Starlette(routes=ours)
    if site is not None:
        app.router.default = site.app  # a Mount would not match a path with a line break in it
    return app


async def _bounded(check: Check) -> str | None:
    """Run a check; one that fails or does not answer in time counts as not ready."""
    try:
        async with asyncio.timeout(3):
            return await check()
    except Exception as error:
        return type(error).__name__


class HttpServer(uvicorn.Server):
    """uvicorn within a process that handles signals itself."""

    def __init__(
        self,
        app: Starlette,
        host: str,
        port: int,
        closing: Callable[[], None] = lambda: None,
        connections: int = 100,
    ) -> None:
        """`closing` is called when it begins to stop: no new requests are accepted, and current ones are waited for."""
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                http=partial(http_timeouts.TimeoutProtocol, most=connections),  # type: ignore[arg-type]
                ws="none",
                proxy_headers=False,  # who trusts proxies must say which ones (groups' page does)
                h11_max_incomplete_event_size=http_timeouts.MAX_HEAD_BYTES,
                timeout_keep_alive=http_timeouts.REST_S,
            )
        )
        self._closing = closing

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop, after ending whatever would never end by itself."""
        self._closing()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the runtime."""
        yield

    async def main_loop(self) -> None:
        """Keep the answers' date right until told to stop. uvicorn's own loop wakes ten times a second for it."""
        while not await self.on_tick(0):  # noqa: ASYNC110  (it is set from other threads, too)
            await asyncio.sleep(TICK_S)

    @property
    def port(self) -> int | None:
        """Return the port that it listens on, None before it does."""
        sockets = [socket for server in self.servers for socket in server.sockets] if self.started else []
        return sockets[0].getsockname()[1] if sockets else None
