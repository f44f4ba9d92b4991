"""Who is there: the platform's token in a cookie, and the proof that a form is one of ours.

The token is the session, so nothing is kept here and the session ends when the token does. What proves a form is made
from the cookie, which no other site can read; and browsers say themselves where a request comes from.
"""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from services.groups.web.auth import Asker

_COOKIE = "popfax"
_LANGUAGE = "popfax-language"
_YEAR_S = 365 * 24 * 3600


def cookie_name(request: Request) -> str:
    """Give the cookie's name. Over https it has the prefix that no other host of the domain can write."""
    return f"__Host-{_COOKIE}" if _is_secure(request) else _COOKIE


def token_of(request: Request) -> str | None:
    """Give the token that the visitor came back with, if any."""
    return request.cookies.get(cookie_name(request))


def begin(response: Response, request: Request, token: str, asker: Asker) -> None:
    """Let the visitor come back with the token for as long as it is good.

    Lax: whoever follows a link from the platform, or from a mail, is to be known on arrival. Nothing is done by GET.
    """
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=max(0, int((asker.until - datetime.now(UTC)).total_seconds())),
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )


def end(response: Response, request: Request) -> None:
    """Let the visitor go."""
    response.delete_cookie(cookie_name(request), path="/", secure=_is_secure(request), httponly=True, samesite="lax")


def language_of(request: Request) -> str | None:
    """Give the language that the visitor has chosen here."""
    return request.cookies.get(_LANGUAGE)


def choose_language(response: Response, request: Request, language: str) -> None:
    """Remember the language that the visitor chose."""
    response.set_cookie(
        _LANGUAGE, language, max_age=_YEAR_S, path="/", secure=_is_secure(request), httponly=True, samesite="strict"
    )


def proof(token: str) -> str:
    """Give what our forms carry, and nobody else can make who does not have the cookie."""
    return urlsafe_b64encode(sha256(b"popfax form\0" + token.encode()).digest()).decode().rstrip("=")


def is_ours(request: Request, token: str, given: str) -> bool:
    """Say whether a form that was posted is one of ours: it has the proof, and the browser names no other site."""
    return is_from_here(request) and compare_digest(given.encode(), proof(token).encode())


def is_from_here(request: Request) -> bool:
    """Say whether the browser names no other site than this one."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
