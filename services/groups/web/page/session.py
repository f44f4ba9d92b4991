"""Who is there: the visitor's secret in a cookie, and the proof that a form is one of ours.

What proves a form is made from the cookie, which no other site can read; and browsers say themselves where a request
comes from.
"""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest

from starlette.requests import Request
from starlette.responses import Response

from services.groups.web.auth import Caller
from services.groups.web.sessions import mark_in

_COOKIE = "popfax"
_LANGUAGE = "popfax-language"
_INVITATION = "popfax-invitation"
_INVITATION_S = 3600
"""How long somebody may take to log in, and come back to the invitation whose link they followed."""
_YEAR_S = 365 * 24 * 3600
_TOLD_S = 3600


def cookie_name(request: Request, name: str = _COOKIE) -> str:
    """Return a cookie's name. Over https it has the prefix that no other host of the domain can write."""
    return f"__Host-{name}" if is_secure(request) else name


def secret_of(request: Request) -> str | None:
    """Return the secret that the visitor came back with, if any."""
    return request.cookies.get(cookie_name(request))


def begin(response: Response, request: Request, secret: str, caller: Caller) -> None:
    """Let the visitor come back for as long as the visit lasts, and be told for an hour more that it is over.

    Lax: whoever follows a link from the platform, or from a mail, is to be known on arrival. Nothing is done by GET.
    """
    response.set_cookie(
        cookie_name(request),
        secret,
        max_age=max(0, int((caller.until - datetime.now(UTC)).total_seconds())) + _TOLD_S,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def end(response: Response, request: Request) -> None:
    """Let the visitor go."""
    response.delete_cookie(cookie_name(request), path="/", secure=is_secure(request), httponly=True, samesite="lax")


def language_of(request: Request) -> str | None:
    """Return the language that the visitor has chosen here."""
    return request.cookies.get(_LANGUAGE)


def choose_language(response: Response, request: Request, language: str) -> None:
    """Remember the language that the visitor chose. Lax: whoever follows a link to us is to be spoken to in it."""
    response.set_cookie(
        _LANGUAGE, language, max_age=_YEAR_S, path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )


def invitation_of(request: Request) -> str | None:
    """Return what the link of an invitation said that somebody followed and has not answered yet."""
    return request.cookies.get(cookie_name(request, _INVITATION))


def remember_invitation(response: Response, request: Request, link: str) -> None:
    """Remember the link of an invitation, through the log-in at the platform, and take it out of the address.

    Lax: whoever comes from a mail, or from the platform, is to be known on arrival.
    """
    response.set_cookie(
        cookie_name(request, _INVITATION),
        link,
        max_age=_INVITATION_S,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def forget_invitation(response: Response, request: Request) -> None:
    """Forget it, once it is answered."""
    if invitation_of(request) is not None:
        name = cookie_name(request, _INVITATION)
        response.delete_cookie(name, path="/", secure=is_secure(request), httponly=True, samesite="lax")


def proof(secret: str) -> str:
    """Return what our forms carry, and nobody else can make who does not have the cookie; and whose form it is."""
    made = urlsafe_b64encode(sha256(b"popfax form\0" + secret.encode()).digest()).decode().rstrip("=")
    return f"{made}.{mark_in(secret)}"


def whose(request: Request, given: str) -> str:
    """Return whose form it was, of this visit or of an earlier one: a mark; empty if it comes from elsewhere."""
    return mark_in(given) if is_from_here(request) else ""


def is_ours(request: Request, secret: str, given: str) -> bool:
    """Return whether a form that was posted is one of ours: it has the proof, and the browser names no other site."""
    return is_from_here(request) and compare_digest(given.encode(), proof(secret).encode())


def is_arrival(request: Request) -> bool:
    """Return whether somebody arrives: not a picture or frame of another page, a prefetch, or a mail scanner."""
    return (
        request.method == "GET"
        and request.headers.get("sec-fetch-dest", "document") == "document"
        and "prefetch" not in request.headers.get("sec-purpose", request.headers.get("purpose", ""))
    )


def is_from_here(request: Request) -> bool:
    """Return whether the browser names no other site than this one."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or origin == f"{request.url.scheme}://{request.headers.get('host')}"


def is_secure(request: Request) -> bool:
    """Return whether the browser reaches us over https."""
    return request.url.scheme == "https"
