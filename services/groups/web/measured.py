"""Measures every request by its method, its route and its status; the rest of its path may be an id of somebody."""

import time
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.groups.web import metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STREAMS = (b"text/event-stream", b"text/csv")
"""Answers that take as long as there is something to say, or whoever reads them: their beginning is measured."""
_FAILURES = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)


class Measured:
    """Measures what an application answers."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        """Create the series of every route: of its success, and of its failures. A refusal's comes with the first."""
        self._app = app
        self._paths: dict[Any, str] = {}
        for route, path in _within(routes):
            self._paths[route.app if isinstance(route, Mount) else route.endpoint] = path
            for method in _methods(route):
                for status in (_success(route), *_FAILURES):
                    metrics.REQUESTS.labels(method, path, int(status))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and measure."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status, streams = time.perf_counter(), HTTPStatus.INTERNAL_SERVER_ERROR.value, False

        async def measured(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                streams = any(value.startswith(_STREAMS) for _, value in message["headers"])
                if streams:
                    self._observe(scope, status, begun)
            await send(message)

        try:
            await self._app(scope, receive, measured)
        finally:
            if not streams:
                self._observe(scope, status, begun)

    def _observe(self, scope: Scope, status: int, begun: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        path = self._paths.get(scope.get("endpoint"), "")
        metrics.REQUESTS.labels(method, path, status).observe(time.perf_counter() - begun)


def _within(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[Route | Mount, str]]:
    """Yield every route with its whole path; what serves files is one."""
    for route in routes:
        if isinstance(route, Mount):
            if route.routes:
                yield from _within(route.routes, prefix + route.path)
            else:
                yield route, f"{prefix}{route.path}/{{path}}"
        elif isinstance(route, Route):
            yield route, prefix + (route.path_format if isinstance(route, APIRoute) else route.path)


def _methods(route: Route | Mount) -> set[str]:
    return {"GET"} if isinstance(route, Mount) or route.methods is None else route.methods - {"HEAD"}


def _success(route: Route | Mount) -> int:
    return (route.status_code if isinstance(route, APIRoute) else None) or HTTPStatus.OK.value
