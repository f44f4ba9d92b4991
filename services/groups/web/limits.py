"""Rate limits, counted in this process's memory: N processes that serve allow N times as much."""

import math
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from uuid import UUID

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.groups.settings import WebSettings

_IPV6_NETWORK_BITS = 64
"""An IPv6 subscriber has a network of this size, and as many addresses in it as they like."""


class TooMany(Exception):
    """There were too many requests. In `retry_after_s` seconds there is room for more."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Limits:
    """The three limits: of an address, before anybody knows who asks; of a person; and of what a person posts."""

    def __init__(self, settings: WebSettings) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._of_address = parse(settings.web_limit_address)
        self._of_person = parse(settings.web_limit_person)
        self._of_commands = parse(settings.web_limit_commands)

    async def request_from(self, client: tuple[str, int] | None) -> None:
        """Count a request by where it comes from. Raises `TooMany`."""
        await self._count(self._of_address, "address", network_of(client[0] if client else ""))

    async def request_of(self, person: UUID) -> None:
        """Count a request of somebody. Raises `TooMany`."""
        await self._count(self._of_person, "person", person.hex)

    async def command_of(self, person: UUID) -> None:
        """Count a command that somebody posts. Raises `TooMany`."""
        await self._count(self._of_commands, "commands", person.hex)

    async def _count(self, limit: RateLimitItem, kind: str, who: str) -> None:
        if not await self._counter.hit(limit, kind, who):
            stats = await self._counter.get_window_stats(limit, kind, who)
            raise TooMany(max(1, math.ceil(stats.reset_time - time.time())))


def network_of(host: str) -> str:
    """Return what stands for an address: itself, or of IPv6 its network."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]  # what a proxy forwarded need not be an address
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return format(int(address) >> (128 - _IPV6_NETWORK_BITS), "x")


class Throttle:
    """Counts requests by where they come from before an application sees them."""

    def __init__(
        self, app: ASGIApp, limits: Limits, answer: Callable[[Request, TooMany], Response], free: tuple[str, ...] = ()
    ) -> None:
        """`answer` makes what somebody gets who asks too often. Paths that begin as `free` says cost nothing."""
        self._app = app
        self._limits = limits
        self._answer = answer
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "http" and not scope["path"].startswith(self._free):
            try:
                await self._limits.request_from(scope.get("client"))
            except TooMany as error:
                return await self._answer(Request(scope), error)(scope, receive, send)
        return await self._app(scope, receive, send)
