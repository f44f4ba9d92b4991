"""Conditional requests (RFC 9110, 13): what is read has an entity tag, and is not sent again to whoever has it."""

from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CACHING = {"cache-control": "private, no-cache", "vary": "Authorization"}
"""A client may keep an answer for whoever asked, and must ask each time whether it still holds."""


class Conditional:
    """Names JSON that is read by its content. The tag is weak: it speaks of what is said, not of its encoding."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            return await self._app(scope, receive, send)
        known = Headers(scope=scope).get("if-none-match", "")
        start: Message | None = None

        async def named(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_named(message):
                start = message  # the tag is known with the body
            elif start is None:
                await send(message)
            elif _has(known, tag := _tag(message["body"])):
                await Response(status_code=304, headers={"etag": tag, **_CACHING})(scope, receive, send)
            else:
                MutableHeaders(scope=start).update({"etag": tag, **_CACHING})
                await send(start)
                await send(message)

        return await self._app(scope, receive, named)


def _is_named(message: Message) -> bool:
    """Return whether an answer is one document, whole in one message."""
    return message["status"] == 200 and Headers(scope=message).get("content-type", "") == "application/json"


def _tag(body: bytes) -> str:
    return f'W/"{sha256(body).hexdigest()[:32]}"'


def _has(known: str, tag: str) -> bool:
    """Return whether `If-None-Match` names a tag; weak or not makes no difference."""
    named = [each.strip().removeprefix("W/") for each in known.split(",")]
    return "*" in named or tag.removeprefix("W/") in named
