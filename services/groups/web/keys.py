"""The platform's public keys (JWKS, RFC 7517): fetched beside the requests, and good for a stated time."""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import structlog

log = structlog.get_logger(__name__)

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

DEVELOPMENT = "dev-"
"""What the names of keys begin with that were made for development: whoever has the checkout can make such a one."""

REFRESH_S = 300.0
"""Keys older than this are fetched again, in the background: meanwhile they stay good."""

LIFETIME_S = 3600.0
"""Keys older than this are good no longer, whether others could be fetched or not: a withdrawn key dies by then."""

PATIENCE_S = 10.0
"""The least time between two fetches, however many tokens name a key that nobody knows."""

TIMEOUT_S = 5.0
"""The longest that a fetch takes, from the connection to the last byte."""

_MAX_BYTES = 1 << 18


class NoKeys(Exception):
    """There are no keys to check a token with: none were ever fetched, or they are too old."""


class UnknownKey(Exception):
    """The platform publishes no such key."""


class Keys:
    """The platform's public keys, from a file or an address.

    Whoever names a known key never waits for a fetch. There is one fetch at a time, and whoever names an unknown key
    waits for it.
    """

    def __init__(self, place: str, *, development: bool = False) -> None:
        """With `development`, keys made for it are good, too."""
        self._place = place
        self._development = development
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, name: str | None) -> jwt.PyJWK:
        """Return a key by its name (`kid`); without a name, the only one. Raises `UnknownKey` and `NoKeys`."""
        if (key := self._find(name)) is None:
            await self._fetched()
            key = self._find(name)
        elif self._age() > REFRESH_S:
            self._fetch()
        if key is not None:
            return key
        raise UnknownKey if self._are_good() else NoKeys

    async def close(self) -> None:
        """End a fetch that is on its way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _find(self, name: str | None) -> jwt.PyJWK | None:
        if not self._are_good():
            return None
        if name is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(name)

    def _age(self) -> float:
        return time.monotonic() - self._fetched_at

    def _are_good(self) -> bool:
        return bool(self._keys) and self._age() <= LIFETIME_S

    def _allows(self, name: str) -> bool:
        return self._development or not name.startswith(DEVELOPMENT)

    async def _fetched(self) -> None:
        """Wait for the fetch on its way, or for one that is due."""
        if (fetching := self._fetch()) is not None:
            await asyncio.shield(fetching)  # it is for everybody who waits, not only for whoever came first

    def _fetch(self) -> asyncio.Task[None] | None:
        """Begin a fetch if one is due; return the one on its way."""
        if self._fetching is None and time.monotonic() - self._tried_at >= PATIENCE_S:
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = read_keys(await read(self._place))
            self._keys = {name: key for name, key in found.items() if self._allows(name)}
            self._fetched_at = time.monotonic()
        except (OSError, ValueError, RecursionError, aiohttp.ClientError) as error:
            log.warning("keys_not_fetched", error=type(error).__name__, known=len(self._keys))
        finally:
            self._fetching = None


def read_keys(text: bytes) -> Mapping[str, jwt.PyJWK]:
    """Read a set of keys; those that are for something else are left out. Raises `ValueError`."""
    found = json.loads(text)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a set of keys")
    keys = (key for key in map(_read_key, listed) if key is not None)
    return {key.key_id or "": key for key in keys}


def _read_key(described: Any) -> jwt.PyJWK | None:
    if not isinstance(described, dict) or described.get("use", "sig") != "sig":
        return None
    if not isinstance(described.get("kid", ""), str) or not isinstance(described.get("alg", ""), str):
        return None
    try:
        key = jwt.PyJWK(described)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return key if key.algorithm_name in ALGORITHMS else None


async def read(place: str) -> bytes:
    """Read a file, or what is at an address and at no other: redirects are not followed, proxies not asked.

    Raises `OSError`, `ValueError` and aiohttp's `ClientError`. Whoever calls bounds the time.
    """
    if "://" not in place:
        return await asyncio.to_thread(Path(place).read_bytes)
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(place, allow_redirects=False) as answer,
    ):
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}")
        text = bytearray()
        async for part in answer.content.iter_any():
            text += part
            if len(text) > _MAX_BYTES:
                raise ValueError("too many keys")
    return bytes(text)
