"""What an orchestrator of containers, and Prometheus, ask a service over HTTP.

`/live`: the consume loop gets on (restart me if not). `/ready`: the database answers and has this version's migrations,
and Kafka's client is in the group and gets answers about every partition that is ours; each check that fails says why.
`/metrics`: Prometheus' text.
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

from services.chassis import patience

Check = Callable[[], Awaitable[str | None]]
"""Returns why a service is not ready; None if nothing speaks against it."""


class Site(Protocol):
    """What a service serves beside this, from the same process."""

    @property
    def app(self) -> ASGIApp:
        """Give the application. It has every path that is not ours."""

    def hang_up(self) -> None:
        """End answers that do not end by themselves: the process is about to stop."""

    async def close(self) -> None:
        """Let go of everything."""


def health_app(live: Callable[[], bool], checks: dict[str, Check], site: Site | None = None) -> Starlette:
    """Make the application; `checks` are what readiness consists of, by name."""

    async def is_live(_: Request) -> Response:
        return JSONResponse({"live": live()}, 200 if live() else 503)

    async def is_ready(_: Request) -> Response:
        found = dict(zip(checks, await asyncio.gather(*(_bounded(check) for check in checks.values())), strict=True))
        passed = {name: reason is None for name, reason in found.items()}
        why = {name: reason for name, reason in found.items() if reason is not None}
        return JSONResponse(passed | {"why": why} if why else passed, 503 if why else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    ours = [Route("/live", is_live), Route("/ready", is_ready), Route("/metrics", metrics)]
    app = Starlette(routes=ours)
    if site is not None:
        app.router.default = site.app  # a Mount would not match a path with a line break in it
    return app


async def _bounded(check: Check) -> str | None:
    """A check that does not answer, or fails, is one that says no."""
    try:
        return await asyncio.wait_for(check(), 3)
    except Exception as error:
        return type(error).__name__


class HttpServer(uvicorn.Server):
    """uvicorn inside a process that has its own idea of signals."""

    def __init__(
        self,
        app: Starlette,
        host: str,
        port: int,
        closing: Callable[[], None] = lambda: None,
        connections: int = 100,
    ) -> None:
        """`closing` is called when it begins to stop: no new requests come, and those at hand are waited for."""
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
                http=partial(patience.PatientProtocol, most=connections),  # type: ignore[arg-type]
                ws="none",
                proxy_headers=False,  # whoever believes them says whom (groups' page does)
                h11_max_incomplete_event_size=patience.MAX_HEAD_BYTES,
                timeout_keep_alive=patience.REST_S,
            )
        )
        self._closing = closing

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop, after what would never end by itself was told to."""
        self._closing()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the runtime."""
        yield

    @property
    def port(self) -> int | None:
        """Give the port that it listens on, once it does."""
        sockets = [socket for server in self.servers for socket in server.sockets] if self.started else []
        return sockets[0].getsockname()[1] if sockets else None
