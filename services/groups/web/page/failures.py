"""What the page says when something goes wrong."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response

from services.groups.web.keys import NoKeys
from services.groups.web.limits import TooMany
from services.groups.web.methods import allowed
from services.groups.web.page import session
from services.groups.web.page.forms import BadForm
from services.groups.web.page.speech import Speech, choose
from services.groups.web.page.words import N_
from services.groups.web.problems import DATABASE_ERRORS, is_of_the_world

log = structlog.get_logger(__name__)


def failure(speech: Speech, status: HTTPStatus, message: str) -> Response:
    """Return a page that says what is wrong."""
    return HTMLResponse(speech.render("failure.html", status=int(status), message=speech.say(message)), status)


def browser_speech(request: Request) -> Speech:
    """Return the language for somebody who is not known: the one chosen here, or else their browser's."""
    return choose(session.language_of(request), None, request.headers.get("accept-language", ""))


def too_many(request: Request, error: TooMany) -> Response:
    """Say that it was too much at once, and when to come back: to htmx in passing, else as a page."""
    speech, status = browser_speech(request), HTTPStatus.TOO_MANY_REQUESTS
    wait = speech.duration(error.retry_after_s)
    message = speech.say(N_("That was too much at once. Please wait %(wait)s, then try again."), wait=wait)
    template = "wait.html" if is_live(request) else "failure.html"
    text = speech.render(template, status=int(status), message=message)
    return HTMLResponse(text, status, headers={"Retry-After": str(error.retry_after_s)})


def is_live(request: Request) -> bool:
    """Return whether htmx asks, for a part of the page."""
    return request.headers.get("hx-request") == "true"


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = failure(browser_speech(request), HTTPStatus(error.status_code), N_("There is nothing here."))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        answer.headers["Allow"] = allowed(request)
    return answer


async def _bad_form(request: Request, _: Exception) -> Response:
    message = N_("This could not be understood. Please check what you have entered.")
    return failure(browser_speech(request), HTTPStatus.UNPROCESSABLE_ENTITY, message)


def away(request: Request) -> Response:
    """Say that another time would do."""
    message = N_("We can't be reached at the moment. Please try again shortly.")
    return failure(browser_speech(request), HTTPStatus.SERVICE_UNAVAILABLE, message)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("page_away", error=type(error).__name__)
    return away(request)


async def _database(request: Request, error: Exception) -> Response:
    if not is_of_the_world(error):
        raise error  # a bug, handled as any other
    return await _unavailable(request, error)


async def _too_many(request: Request, error: Exception) -> Response:
    assert isinstance(error, TooMany)
    return too_many(request, error)


async def _hung_up(_: Request, __: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


async def _bug(request: Request, _: Exception) -> Response:
    message = N_("Something went wrong on our side. Nothing was lost; please try again.")
    return failure(browser_speech(request), HTTPStatus.INTERNAL_SERVER_ERROR, message)


HANDLERS: Mapping[Any, Any] = {
    HTTPException: _http,
    BadForm: _bad_form,
    NoKeys: _unavailable,
    **dict.fromkeys(DATABASE_ERRORS, _database),
    TooMany: _too_many,
    ClientDisconnect: _hung_up,
    Exception: _bug,
}
"""What answers an exception, by its class."""
