"""What somebody is in the middle of: a reload, another language or the end of their visit takes nothing of it.

It is kept in a cookie of their own browser, for half an hour, and never by us: what is typed may be about others, and
is nobody's business before it is sent. It says whose it is, and is shown to nobody else who logs in there.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.groups.web.page import session
from services.groups.web.page.forms import Form

LASTS_S = 30 * 60

_COOKIE = "popfax-draft"
_MAX_LENGTH = 3600
"""A browser keeps 4,096 characters of a cookie, with its name and what is said of it."""

_NEVER_KEPT = frozenset({"proof", "once", "token", "at"})


@dataclass(frozen=True)
class Draft:
    """A form that was not sent, or not carried out."""

    mark: str
    """Whose it is (`sessions.mark_of`)."""
    path: str = ""
    """What is to be shown again; empty if nothing can be."""
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    region: str = ""
    """Where on the page it is at home."""
    is_interrupted: bool = False
    """Whether the visit has ended meanwhile."""


def of(mark: str, path: str, form: Form, region: str = "") -> Draft:
    """Return what a form holds, but for what proves that it is ours."""
    return Draft(mark, path, form.without(*_NEVER_KEPT), region)


def kept(request: Request) -> Draft | None:
    """Return what the browser has kept, if it is a draft."""
    try:
        return _DRAFT.validate_json(urlsafe_b64decode(request.cookies[_name(request)]))
    except (KeyError, ValueError, ValidationError):
        return None


def keep(response: Response, request: Request, draft: Draft) -> None:
    """Let the browser keep a draft; of one that is too long, only that there was one."""
    if len(content := _content(draft)) > _MAX_LENGTH:
        content = _content(replace(draft, path="", fields={}))
    response.set_cookie(
        _name(request),
        content,
        max_age=LASTS_S,
        path="/",
        secure=session.is_secure(request),
        httponly=True,
        samesite="lax",  # it is needed on the way back from the platform's login
    )


def forget(response: Response, request: Request) -> None:
    """Let the browser forget."""
    if _name(request) in request.cookies:
        secure = session.is_secure(request)
        response.delete_cookie(_name(request), path="/", secure=secure, httponly=True, samesite="lax")


_DRAFT = TypeAdapter(Draft)


def _content(draft: Draft) -> str:
    return urlsafe_b64encode(_DRAFT.dump_json(draft, exclude_defaults=True)).decode()


def _name(request: Request) -> str:
    return session.cookie_name(request, _COOKIE)
