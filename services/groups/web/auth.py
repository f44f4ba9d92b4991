"""Who asks: a bearer token of the platform's, signed with a key that the platform publishes.

Asymmetric signatures alone: whoever can check a token must not be able to make one. The key says which algorithm it is
for, never the token.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, build_opener
from uuid import UUID

import jwt
import structlog

log = structlog.get_logger(__name__)

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

DEVELOPMENT = "dev-"
"""What the names of keys begin with that were made for development: whoever has the checkout can make such a one."""

LEEWAY_S = 30
"""Clocks may differ by this much."""

LIFETIME_S = 300.0
"""Keys are fetched again when they are older: a key that was withdrawn is good for so long at most."""

PATIENCE_S = 10.0
"""The least time between two fetches, however many tokens name a key that nobody knows."""

_TIMEOUT_S = 5.0
_MAX_KEYS_BYTES = 1 << 18
_MAX_TOKEN_LENGTH = 8192


class BadToken(Exception):
    """The token proves nothing. Why, is for whoever has it: its code is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NoKeys(Exception):
    """There are no keys to check a token with: the platform's have never been got."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Whom a token speaks for, and until when."""

    id: UUID
    until: datetime


class Keys:
    """The platform's public keys, from a file or an address; those that were got last stay good while it is away."""

    def __init__(self, place: str, *, development: bool = False) -> None:
        """With `development` keys that were made for it are good, too."""
        self._place = place
        self._development = development
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._busy = asyncio.Lock()

    async def get(self, name: str | None) -> jwt.PyJWK:
        """Give a key by its name (`kid`); without a name the only one. Raises `BadToken` and `NoKeys`."""
        if (key := self._find(name)) is None or time.monotonic() - self._fetched_at > LIFETIME_S:
            await self._refresh()
            key = self._find(name)
        if not self._keys:
            raise NoKeys
        if key is None:
            raise BadToken("unknown_key")
        return key

    def _find(self, name: str | None) -> jwt.PyJWK | None:
        if name is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(name)

    def _allows(self, name: str) -> bool:
        return self._development or not name.startswith(DEVELOPMENT)

    async def _refresh(self) -> None:
        async with self._busy:
            if time.monotonic() - self._tried_at < PATIENCE_S:
                return
            self._tried_at = time.monotonic()
            try:
                found = read_keys(await asyncio.to_thread(_read, self._place))
                self._keys = {name: key for name, key in found.items() if self._allows(name)}
                self._fetched_at = time.monotonic()
            except (OSError, ValueError) as error:
                log.warning("keys_not_fetched", error=type(error).__name__, known=len(self._keys))


def read_keys(text: bytes) -> Mapping[str, jwt.PyJWK]:
    """Read a set of keys (RFC 7517); those that are for something else are left out. Raises `ValueError`."""
    found = json.loads(text)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a set of keys")
    keys = {}
    for each in listed:
        key = _read_key(each)
        if key is not None:
            keys[key.key_id or ""] = key
    return keys


def _read_key(described: Any) -> jwt.PyJWK | None:
    if not isinstance(described, dict) or described.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(described)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if key.algorithm_name in ALGORITHMS else None


class _NoRedirect(HTTPRedirectHandler):
    """Keys come from the address that was given, and from no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _read(place: str) -> bytes:
    if "://" not in place:
        return Path(place).read_bytes()
    try:
        with build_opener(_NoRedirect).open(place, timeout=_TIMEOUT_S) as answer:
            text: bytes = answer.read(_MAX_KEYS_BYTES + 1)
    except URLError as error:
        raise OSError(str(error.reason)) from error
    if len(text) > _MAX_KEYS_BYTES:
        raise ValueError("too many keys")
    return text


class Tokens:
    """Checks tokens."""

    def __init__(self, keys: Keys, audience: str, issuer: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    async def asker(self, token: str) -> Asker:
        """Give whom a token speaks for. Raises `BadToken`, and `NoKeys` when nothing can be checked."""
        if len(token) > _MAX_TOKEN_LENGTH:
            raise BadToken("malformed_token")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise BadToken("malformed_token") from error
        if header.get("alg") not in ALGORITHMS:
            raise BadToken("algorithm_not_allowed")
        key = await self._keys.get(header.get("kid"))
        return _asker(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[str(key.algorithm_name)],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise BadToken(_code(error)) from error


def _code(error: jwt.PyJWTError) -> str:
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), "malformed_token")


_CODES: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "token_expired",
    jwt.ImmatureSignatureError: "token_not_yet_valid",
    jwt.InvalidAudienceError: "wrong_audience",
    jwt.InvalidIssuerError: "wrong_issuer",
    jwt.MissingRequiredClaimError: "claim_missing",
    jwt.InvalidSignatureError: "wrong_signature",
    jwt.InvalidAlgorithmError: "algorithm_not_allowed",
}


def _asker(claims: Mapping[str, Any]) -> Asker:
    try:
        return Asker(UUID(claims["sub"]), datetime.fromtimestamp(int(claims["exp"]), UTC))
    except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise BadToken("malformed_claim") from error
