"""Who asks: a bearer token of the platform's, signed with a key that the platform publishes.

Asymmetric signatures alone: whoever can check a token must not be able to make one. The key says which algorithm it is
for, never the token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import jwt
from pydantic import BaseModel, ConfigDict, ValidationError

from services.groups.web.keys import ALGORITHMS, Keys, UnknownKey

LEEWAY_S = 30
"""Clocks may differ by this much."""

_MAX_TOKEN_LENGTH = 8192


class BadToken(Exception):
    """The token proves nothing. Why, is for whoever has it: its code is stable."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and until when they are known: by a token, or as a visitor of the page by their session."""

    id: UUID
    until: datetime
    session: bytes | None = None


class _Header(BaseModel):
    """What we read of a token's header; nobody has signed it yet."""

    model_config = ConfigDict(strict=True)

    alg: str
    kid: str | None = None


class Tokens:
    """Checks tokens."""

    def __init__(self, keys: Keys, audience: str, issuer: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    async def caller(self, token: str) -> Caller:
        """Return whom a token speaks for. Raises `BadToken`, and `NoKeys` when nothing can be checked."""
        header = _header(token)
        if header.alg not in ALGORITHMS:
            raise BadToken("algorithm_not_allowed")
        try:
            key = await self._keys.get(header.kid)
        except UnknownKey as error:
            raise BadToken("unknown_key") from error
        return _caller(self._claims(token, key))

    async def close(self) -> None:
        """Let go of what is on its way."""
        await self._keys.close()

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
        except _UNREADABLE as error:
            raise BadToken("malformed_claim") from error


_UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, OSError)
"""What a token of odd types, depths and sizes makes PyJWT, and the standard library below it, raise."""


def fingerprint(token: str) -> bytes:
    """Return what a token is remembered by: a hash of what is signed.

    The signature is left out. With ES256 anybody can make a second good one from the first.
    """
    return sha256(token.rpartition(".")[0].encode()).digest()


def _header(token: str) -> _Header:
    if len(token) > _MAX_TOKEN_LENGTH:
        raise BadToken("malformed_token")
    try:
        return _Header.model_validate(jwt.get_unverified_header(token))
    except (jwt.PyJWTError, ValidationError, *_UNREADABLE) as error:
        raise BadToken("malformed_token") from error


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


def _caller(claims: Mapping[str, Any]) -> Caller:
    try:
        return Caller(UUID(claims["sub"]), datetime.fromtimestamp(int(claims["exp"]), UTC))
    except _UNREADABLE as error:
        raise BadToken("malformed_claim") from error
