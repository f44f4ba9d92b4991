"""Logging in and out, and the language. Whoever comes here may be somebody, somebody else, or nobody yet.

The platform's token is taken out of the address at once, and nobody's session is taken over unasked.
"""

import re
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from secrets import token_hex
from typing import Literal
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.groups.web import sessions
from services.groups.web.auth import BadToken, Caller
from services.groups.web.context import WebContext
from services.groups.web.page import drafts, session, views
from services.groups.web.page.drafts import Draft
from services.groups.web.page.failures import browser_speech, failure, is_live
from services.groups.web.page.forms import Form, form_of, read_form
from services.groups.web.page.speech import LANGUAGES, choose
from services.groups.web.page.visit import Visit
from services.groups.web.page.words import N_
from services.groups.web.sessions import TokenSpent

INVITATION = "/invitation"
"""Where somebody answers an invitation whose link they have followed: they come back there once they are logged in."""


async def log_in(context: WebContext, request: Request) -> Response:
    """Begin a session with the token of a link; ask first if somebody else's session would end."""
    token, secret = request.query_params.get("token", ""), session.secret_of(request) or ""
    if not session.is_arrival(request):
        raise HTTPException(HTTPStatus.FORBIDDEN)
    try:
        coming = await context.tokens.caller(token)
    except BadToken:
        return ask_to_log_in(context, request, "over" if token else "new")
    present = await caller_of(context, secret)
    if present is not None and present.id != coming.id:
        return await _ask_whether(context, request, present, coming, token)
    return await _begin(context, request, token, coming, secret if present else "")


async def switch(visit: Visit) -> Response:
    """Go on as somebody else, as the visitor has confirmed."""
    token = visit.form.one("token")
    try:
        coming = await visit.context.tokens.caller(token)
    except BadToken:
        return failure(visit.speech, HTTPStatus.FORBIDDEN, N_("This link is not good any more."))
    return await _begin(visit.context, visit.request, token, coming, visit.secret)


async def log_out(visit: Visit) -> Response:
    """End the session, on all replicas."""
    await sessions.end(visit.context.engine, visit.secret)
    response = RedirectResponse(_then(visit.form), HTTPStatus.SEE_OTHER)
    session.end(response, visit.request)
    drafts.forget(response, visit.request)
    return response


async def choose_language(request: Request) -> Response:
    """Change the language, whoever is there. The form brings what they are in the middle of."""
    form = await read_form(request)
    language, typed = form.one("language"), form_of(form.one("draft"))
    if language not in LANGUAGES or not session.is_from_here(request):
        raise HTTPException(HTTPStatus.FORBIDDEN)
    response = RedirectResponse(_where_they_were(request, form), HTTPStatus.SEE_OTHER)
    session.choose_language(response, request, language)
    if (path := typed.one("at")) and (mark := session.whose(request, typed.one("proof"))):
        drafts.keep(response, request, drafts.of(mark, path, typed))
    return response


def _then(form: Form) -> str:
    """Return where a form leads that is on several pages."""
    return INVITATION if form.one("then") == INVITATION else "/"


_ID = "[0-9a-f-]{32,36}"
_PAGES = re.compile(
    rf"/|/history|/statement|/orders(/new)?|/members/{_ID}(/order)?|/(lists|payments)/{_ID}|/commands/{_ID}(/[0-9]+)?"
)
"""The pages that are whole, and can be looked at again."""


def _where_they_were(request: Request, form: Form) -> str:
    """Return the address on this site that a form was sent from, if it can be looked at again; else where it leads."""
    came = urlsplit(request.headers.get("referer", ""))
    is_ours = (came.scheme, came.netloc) == (request.url.scheme, request.headers.get("host"))
    if not is_ours or not _PAGES.fullmatch(came.path):
        return _then(form)
    return f"{came.path}?{came.query}" if came.query else came.path


def ask_to_log_in(
    context: WebContext, request: Request, why: Literal["new", "over", "spent"], draft: Draft | None = None
) -> Response:
    """Say that the platform is where people log in; and, if their visit has ended, what became of the `draft`."""
    draft = draft or drafts.kept(request)
    if is_live(request):
        response = Response(headers={"HX-Redirect": "/"})
    else:
        why = "over" if draft and why == "new" else why
        values = {"why": why, "draft": draft, "log_in": context.settings.where_to_log_in}
        response = HTMLResponse(browser_speech(request).render("login.html", **values), HTTPStatus.UNAUTHORIZED)
        if why == "over":
            session.end(response, request)
    if draft:
        drafts.keep(response, request, replace(draft, is_interrupted=True))
    return response


async def caller_of(context: WebContext, secret: str) -> Caller | None:
    """Return whose session a cookie's secret opens; None if there is none, or it is over."""
    if not secret:
        return None
    async with context.reading() as connection:
        return await sessions.caller(connection, secret)


async def _ask_whether(context: WebContext, request: Request, present: Caller, coming: Caller, token: str) -> Response:
    """Another site may have sent them here with a token of its own choice: ask who they want to be."""
    async with context.reading() as connection:
        here, there = [await views.visitor(connection, each.id) for each in (present, coming)]
    proof = session.proof(session.secret_of(request) or "")
    values = {"here": here, "there": there, "token": token, "proof": proof, "once": partial(token_hex, 8)}
    speech = choose(session.language_of(request), here.language, request.headers.get("accept-language", ""))
    return HTMLResponse(speech.render("login_confirm.html", **values), headers={"Referrer-Policy": "same-origin"})


async def _begin(context: WebContext, request: Request, token: str, caller: Caller, before: str) -> Response:
    """Begin a session, and end the one `before`. A link that is followed again leads on whoever it let in."""
    then = "/" if session.invitation_of(request) is None else INVITATION
    response = RedirectResponse(then, HTTPStatus.SEE_OTHER, headers={"Referrer-Policy": "no-referrer"})
    try:
        secret, known = await sessions.begin(context.engine, token, caller)
    except TokenSpent:
        present = await caller_of(context, before)
        return response if present and present.id == caller.id else ask_to_log_in(context, request, "spent")
    if before:
        await sessions.end(context.engine, before)
    session.begin(response, request, secret, known)
    return response
