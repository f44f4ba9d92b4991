"""The page's routes, and the application that serves them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from services.groups.web.auth import Caller
from services.groups.web.context import WebContext
from services.groups.web.ending import Ending
from services.groups.web.limits import Throttle
from services.groups.web.page import drafts, failures, session, views
from services.groups.web.page.flows import (
    books,
    commands,
    creation,
    history,
    invitations,
    invited,
    login,
    low_balance,
    members,
    naming,
    orders,
    overview,
    payments,
    resuming,
    several,
    transfers,
)
from services.groups.web.page.forms import Form, read_form
from services.groups.web.page.guard import Guard, Static
from services.groups.web.page.speech import Speech, choose
from services.groups.web.page.visit import Handler, Visit
from services.groups.web.page.words import N_
from services.groups.web.sessions import mark_of

SHOWN: Mapping[str, Handler] = {
    "/": resuming.page,
    "/parts": overview.parts,
    "/events": overview.events,
    "/history": history.history,
    "/members": members.listed,
    "/history.csv": books.table,
    "/statement": books.statement,
    "/members/{id:uuid}": members.show,
    "/name": naming.form,
    "/low": low_balance.said,
    "/low-balance": low_balance.form,
    "/title": naming.title,
    "/invite": invitations.form,
    "/invite/several": several.form,
    "/lists/{id:uuid}": several.follow,
    "/lists/{id:uuid}/accounts": several.accounts,
    "/payments/{id:uuid}": payments.follow,
    "/orders": orders.page,
    "/orders/new": orders.form,
    "/members/{id:uuid}/order": orders.form_of_one,
    "/groups/{id:uuid}/leave": members.confirm_leaving,
    "/commands/{id:uuid}": commands.follow,
    "/commands/{id:uuid}/{parts:int}": commands.follow_all,
}
"""What can be looked at, by GET."""

DONE: Mapping[str, Handler] = {
    "/login": login.switch,
    "/logout": login.log_out,
    "/draft": resuming.keep,
    "/name": naming.rename,
    "/low-balance": low_balance.set_low_balance,
    "/invite": invitations.invite,
    "/invite/several": several.form,
    "/invite/several/check": several.check,
    "/invite/several/send": several.send,
    "/lists/{id:uuid}/accounts": several.create_accounts,
    "/lists/{id:uuid}/holders": several.change_accounts,
    "/lists/{id:uuid}/payment": several.show_payment,
    "/invitations/{id:uuid}/revoke": invitations.revoke,
    "/invitations/{id:uuid}/resend": invitations.resend,
    "/invitations/{id:uuid}/accept": invitations.accept,
    "/invitations/{id:uuid}/decline": invitations.decline,
    "/create/plan": creation.choose_plan,
    "/create/person": creation.name_person,
    "/create/payment": creation.show_payment,
    "/create": creation.create,
    "/members/confirm": members.confirm_detaching,
    "/members/detach": members.detach,
    "/transfers/cost": transfers.cost,
    "/transfers/confirm": transfers.confirm,
    "/transfers": transfers.transfer,
    "/payments/{action}/confirm": payments.confirm,
    "/payments/{action}": payments.pay,
    "/orders": orders.save,
    "/orders/new": orders.begin,
    "/members/{id:uuid}/order/stop": orders.stop,
    "/groups/{id:uuid}/leave": members.leave,
    "/commands/{id:uuid}": commands.follow,
    "/commands/{id:uuid}/{parts:int}": commands.follow_all,
}
"""What can be done, by POST, with a form of this page."""


def page(context: WebContext) -> Starlette:
    """Make the application, to be mounted at the root."""
    routes = [
        Route("/login", partial(login.log_in, context), methods=["GET"]),
        Route(login.INVITATION, partial(invited.invitation, context), methods=["GET"]),
        Route("/language", login.choose_language, methods=["POST"]),
        *(Route(path, _for_visitors(context, handler), methods=["GET"]) for path, handler in SHOWN.items()),
        *(Route(path, _for_visitors(context, handler), methods=["POST"]) for path, handler in DONE.items()),
        Mount("/static", Static()),
    ]
    app = Starlette(routes=routes, exception_handlers=failures.HANDLERS)
    app.router.redirect_slashes = False
    app.add_middleware(Throttle, limits=context.limits, answer=failures.too_many, free=("/static/",))
    app.add_middleware(Ending, answer=failures.away)
    app.add_middleware(Guard)
    return app


def _for_visitors(context: WebContext, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of a handler: it begins with who is there, and believes no form but this page's own."""

    async def endpoint(request: Request) -> Response:
        secret = session.secret_of(request) or ""
        if (caller := await login.caller_of(context, secret)) is None:
            return await _turn_away(context, request, secret)
        await context.limits.request_of(caller.id)
        form = await read_form(request) if request.method == "POST" else Form({})
        visit = Visit(context, request, caller, secret, await _speech(context, request, caller), form)
        if request.method == "POST" and not session.is_ours(request, secret, form.one("proof")):
            if session.whose(request, form.one("proof")) == mark_of(caller.id):
                return _begin_again(request, form)
            return failures.failure(visit.speech, HTTPStatus.FORBIDDEN, N_("This form is not from this page."))
        return await handler(visit)

    return endpoint


def _begin_again(request: Request, form: Form) -> Response:
    """Show a form again that is of an earlier visit of the same person: in another tab they have logged in since."""
    response: Response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    if failures.is_live(request):
        response = Response(headers={"HX-Redirect": "/"})
    if draft := _draft_of(request, form):
        drafts.keep(response, request, replace(draft, is_interrupted=True))
    return response


async def _turn_away(context: WebContext, request: Request, secret: str) -> Response:
    """Ask somebody to log in whose visit has ended, or who has none; what they were in the middle of is kept."""
    draft = _draft_of(request, await read_form(request)) if request.method == "POST" else None
    return login.ask_to_log_in(context, request, "over" if secret else "new", draft)


def _draft_of(request: Request, form: Form) -> drafts.Draft | None:
    """Return what can be gone on with later of a form that is not carried out now; None if no flow sends it."""
    mark = session.whose(request, form.one("proof"))
    path = form.one("at") if request.url.path == "/draft" else request.url.path
    if not mark:
        return None
    return drafts.of(mark, path, form) if path in resuming.RESUMED else drafts.Draft(mark)


async def _speech(context: WebContext, request: Request, caller: Caller) -> Speech:
    async with context.reading() as connection:
        known = await views.visitor(connection, caller.id)
    spoken = choose(session.language_of(request), known.language, request.headers.get("accept-language", ""))
    return spoken.by_clock_of(known.time_zone)
