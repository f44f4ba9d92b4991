"""Answers requests that are cut short because the process stops."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Ending:
    """Says that another time would do: uvicorn gives a stopping process a second, and answers 500 for what is left."""

    def __init__(self, app: ASGIApp, answer: Callable[[Request], Response]) -> None:
        """`answer` makes what somebody gets whose request is cut short."""
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if begun:
                raise
            await self._answer(Request(scope))(scope, receive, send)
