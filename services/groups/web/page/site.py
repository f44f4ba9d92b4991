"""The page's routes. Each begins with who is there, and each part of the page is made in one place for all of them.

An answer is a part of the page for htmx, and for everybody else the whole page with that part in its place.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from secrets import token_hex
from typing import Any, Literal
from uuid import UUID

import structlog
from markupsafe import Markup
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from popfax_contracts.ids import derive_own
from services.groups.commands import POSTABLE
from services.groups.domain import CommandState
from services.groups.web import queries, sessions
from services.groups.web.auth import BadToken, Caller
from services.groups.web.changes import EventStream, Full
from services.groups.web.context import WebContext
from services.groups.web.cursor import BadCursor, Cursor
from services.groups.web.keys import NoKeys
from services.groups.web.limits import Throttle, TooMany
from services.groups.web.page import session, views
from services.groups.web.page.forms import BadForm, Form, Texts, read_form
from services.groups.web.page.guard import Guard, Static
from services.groups.web.page.speech import LANGUAGES, Speech, choose
from services.groups.web.page.waiting import wait_for
from services.groups.web.page.words import DONE, N_, PENDING, STEPS
from services.groups.web.posting import command_of
from services.groups.web.problems import DATABASE_ERRORS, is_of_the_world
from services.groups.web.queries import Filter
from services.groups.web.sessions import TokenSpent

log = structlog.get_logger(__name__)

MAX_UNITS = 1_000_000_000

REGIONS: Mapping[str, str] = {
    "rename-group": "title",
    "invite-by-email": "flow",
    "create-member-account": "flow",
    "accept-invitation": "received-answer",
    "decline-invitation": "received-answer",
    "revoke-invitation": "pending-answer",
    "detach-members": "members-answer",
    "transfer-units": "members-answer",
    "leave-group": "joined-answer",
}
"""Where on the page the answer to a command appears: beside what asked for it."""

CARRIED = ("email", "plan", "price", "first_name", "last_name", "language", "name")
"""What a form may need again after its answer: to go on with, or to be filled in once more."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is known."""

    request: Request
    caller: Caller
    secret: str
    speech: Speech
    form: Form

    @property
    def is_live(self) -> bool:
        """Say whether htmx asks, for a part of the page."""
        return self.request.headers.get("hx-request") == "true"


Handler = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of the page: where it goes, its template, and what that speaks of."""

    region: str
    template: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    toast: str = ""
    """Said in passing."""
    has_news: bool = False
    """Whether the rest of the page is to be read again."""


def page(context: WebContext) -> Starlette:
    """Make the application, to be mounted at the root."""
    pages = Pages(context)
    errors: Mapping[Any, Any] = {
        HTTPException: pages.http_error,
        BadForm: pages.bad_form,
        NoKeys: pages.away,
        **dict.fromkeys(DATABASE_ERRORS, pages.database),
        TooMany: pages.too_many,
        ClientDisconnect: pages.gone,
        Exception: pages.bug,
    }
    app = Starlette(routes=[*pages.routes(), Mount("/static", Static())], exception_handlers=errors)
    app.router.redirect_slashes = False
    app.add_middleware(Throttle, limits=context.limits, answer=pages.slow_down, free=("/static/",))
    app.add_middleware(Guard)
    return app


class Pages:
    """All of them."""

    def __init__(self, context: WebContext) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        """Give the routes: what can be looked at, and what can be done."""
        seen: Mapping[str, Handler] = {
            "/": self.whole,
            "/parts": self.parts,
            "/history": self.history,
            "/events": self.events,
            "/name": self.name_form,
            "/invite": self.invite_form,
            "/groups/{id:uuid}/leave": self.confirm_leaving,
            "/commands/{id:uuid}": self.follow,
        }
        done: Mapping[str, Handler] = {
            "/login": self.change_visitor,
            "/logout": self.log_out,
            "/name": self.rename,
            "/invite": self.invite,
            "/create/plan": self.choose_plan,
            "/create/person": self.name_person,
            "/create/payment": self.show_payment,
            "/create": self.create,
            "/members/confirm": self.confirm_detaching,
            "/members/detach": self.detach,
            "/transfers/cost": self.cost,
            "/transfers/confirm": self.confirm_transfer,
            "/transfers": self.transfer,
            "/invitations/{id:uuid}/revoke": partial(self.answer_invitation, "revoke-invitation"),
            "/invitations/{id:uuid}/accept": partial(self.answer_invitation, "accept-invitation"),
            "/invitations/{id:uuid}/decline": partial(self.answer_invitation, "decline-invitation"),
            "/groups/{id:uuid}/leave": self.leave,
            "/commands/{id:uuid}": self.follow,
        }
        return [
            Route("/login", self.log_in, methods=["GET"]),
            Route("/language", self.speak, methods=["POST"]),
            *(Route(path, self._known(handler), methods=["GET"]) for path, handler in seen.items()),
            *(Route(path, self._known(handler), methods=["POST"]) for path, handler in done.items()),
        ]

    # --- who is there -------------------------------------------------------------------------------------------------

    def _known(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            secret = session.secret_of(request) or ""
            if (caller := await self._visitor(secret)) is None:
                return self._strangers(request, "over" if secret else "new")
            await self._context.limits.request_of(caller.id)
            form = await read_form(request) if request.method == "POST" else Form({})
            visit = Visit(request, caller, secret, await self._speech(request, caller), form)
            if request.method == "POST" and not session.is_ours(request, secret, form.one("proof")):
                return self._failure(
                    visit.speech, request, HTTPStatus.FORBIDDEN, N_("This form is not from this page.")
                )
            return await handler(visit)

        return endpoint

    async def _visitor(self, secret: str) -> Caller | None:
        if not secret:
            return None
        async with self._context.reading() as connection:
            return await sessions.visitor(connection, secret)

    async def _speech(self, request: Request, caller: Caller) -> Speech:
        async with self._context.reading() as connection:
            known = await views.visitor(connection, caller.id)
        return choose(session.language_of(request), known.language, request.headers.get("accept-language", ""))

    async def log_in(self, request: Request) -> Response:
        """Take the platform's token out of the address, at once; nobody's visit is taken over unasked."""
        token, secret = request.query_params.get("token", ""), session.secret_of(request) or ""
        if not session.is_arrival(request):
            raise HTTPException(HTTPStatus.FORBIDDEN)
        try:
            caller = await self._context.tokens.caller(token)
        except BadToken:
            return self._strangers(request, "over" if token else "new")
        present = await self._visitor(secret)
        if present is not None and present.id != caller.id:
            return await self._ask_whether(request, present, caller, token)
        return await self._begin(request, token, caller, secret if present else "")

    async def _ask_whether(self, request: Request, present: Caller, coming: Caller, token: str) -> Response:
        """Another site may have sent them here with a token of its own choice: ask who they want to be."""
        async with self._context.reading() as connection:
            here, there = [await views.visitor(connection, each.id) for each in (present, coming)]
        proof = session.proof(session.secret_of(request) or "")
        facts = {"here": here, "there": there, "token": token, "proof": proof, "once": partial(token_hex, 8)}
        speech = choose(session.language_of(request), here.language, request.headers.get("accept-language", ""))
        return HTMLResponse(speech.render("login_confirm.html", **facts), headers={"Referrer-Policy": "same-origin"})

    async def change_visitor(self, visit: Visit) -> Response:
        """Go on as somebody else, as the visitor has confirmed."""
        token = visit.form.one("token")
        try:
            caller = await self._context.tokens.caller(token)
        except BadToken:
            return self._failure(
                visit.speech, visit.request, HTTPStatus.FORBIDDEN, N_("This link is not good any more.")
            )
        return await self._begin(visit.request, token, caller, visit.secret)

    async def _begin(self, request: Request, token: str, caller: Caller, before: str) -> Response:
        """Begin a visit, and end the one `before`. A link that is followed again leads on whoever it let in."""
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER, headers={"Referrer-Policy": "no-referrer"})
        try:
            secret, known = await sessions.begin(self._context.engine, token, caller)
        except TokenSpent:
            present = await self._visitor(before)
            return response if present and present.id == caller.id else self._strangers(request, "spent")
        if before:
            await sessions.end(self._context.engine, before)
        session.begin(response, request, secret, known)
        return response

    async def log_out(self, visit: Visit) -> Response:
        """Let the visitor go, on all replicas."""
        await sessions.end(self._context.engine, visit.secret)
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        session.end(response, visit.request)
        return response

    async def speak(self, request: Request) -> Response:
        """Change the language; whoever is there."""
        language = (await read_form(request)).one("language")
        if language not in LANGUAGES or not session.is_from_here(request):
            raise HTTPException(HTTPStatus.FORBIDDEN)
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        session.choose_language(response, request, language)
        return response

    def _strangers(self, request: Request, why: Literal["new", "over", "spent"]) -> Response:
        """Say that the platform is where people log in."""
        if request.headers.get("hx-request") == "true":
            return Response(headers={"HX-Redirect": "/"})
        facts = {"why": why, "platform": str(self._context.settings.platform_url)}
        response = HTMLResponse(_browsers(request).render("login.html", **facts), HTTPStatus.UNAUTHORIZED)
        if why == "over":
            session.end(response, request)
        return response

    # --- the page, its parts, what changes ----------------------------------------------------------------------------

    async def whole(self, visit: Visit) -> Response:
        """Show it all."""
        return await self._whole(visit)

    async def _whole(self, visit: Visit, answer: Answer | None = None) -> Response:
        async with self._context.reading() as connection:
            shown = await views.shown(connection, visit.caller.id, _filter(visit), visit.speech)
        facts = {**self._facts(visit), "shown": shown, "oob": False, "regions": Texts()}
        if answer is not None:
            part = visit.speech.render(answer.template, **{**facts, **answer.facts})
            facts["regions"] = Texts({answer.region: Markup(part)})  # noqa: S704 - a template has made it
        return HTMLResponse(visit.speech.render("page.html", **facts))

    async def parts(self, visit: Visit) -> Response:
        """Show what may have changed, each part in the place of the one before."""
        async with self._context.reading() as connection:
            shown = await views.shown(connection, visit.caller.id, _filter(visit), visit.speech)
        return HTMLResponse(visit.speech.render("parts.html", **self._facts(visit), shown=shown, oob=True))

    async def history(self, visit: Visit) -> Response:
        """Show a page of the history."""
        cursor = visit.request.query_params.get("cursor")
        try:
            after = Cursor.parse(cursor) if cursor else None
        except BadCursor as error:
            raise HTTPException(HTTPStatus.NOT_FOUND) from error
        async with self._context.reading() as connection:
            history = await views.history_view(connection, visit.caller.id, _filter(visit), after)
        facts = {**self._facts(visit), "history": history, "oob": visit.is_live}
        if not visit.is_live:
            return HTMLResponse(visit.speech.render("history.html", **facts))
        template = "parts/history_lines.html" if after else "parts/history.html"
        return HTMLResponse(visit.speech.render(template, **facts))

    async def events(self, visit: Visit) -> Response:
        """Tell when something has changed, from what the page showed on."""
        seen = visit.request.headers.get("last-event-id") or visit.request.query_params.get("seen")
        return EventStream(self._context.feed, visit.caller, (seen or "")[:100] or None, _no_stream)

    # --- the group's name ---------------------------------------------------------------------------------------------

    async def name_form(self, visit: Visit) -> Response:
        """Show a form for the group's name."""
        async with self._context.reading() as connection:
            group = await queries.group_of_owner(connection, visit.caller.id)
        return await self._respond(visit, Answer("title", "title_form.html", {"name": group.name, "error": ""}))

    async def rename(self, visit: Visit) -> Response:
        """Rename the group."""
        name = visit.form.one("name")
        try:
            command_of(POSTABLE["rename-group"], {"name": name}, visit.caller.id)
        except ValidationError as invalid:
            error = visit.speech.say(_wrong_name(invalid.errors()[0]["type"]))
            return await self._respond(visit, Answer("title", "title_form.html", {"name": name, "error": error}))
        return await self._post(visit, "rename-group", {"name": name})

    # --- a new member: invited, or an account of their own ------------------------------------------------------------

    async def invite_form(self, visit: Visit) -> Response:
        """Show the box for an e-mail address."""
        return await self._respond(visit, Answer("flow", "flow/invite.html", _asked_for(visit, "")))

    async def invite(self, visit: Visit) -> Response:
        """Invite whoever has an address; for one that nobody has, go on to an account."""
        try:
            command_of(POSTABLE["invite-by-email"], {"email": visit.form.one("email")}, visit.caller.id)
        except ValidationError:
            error = visit.speech.say(N_("This does not look like an e-mail address."))
            return await self._respond(visit, Answer("flow", "flow/invite.html", _asked_for(visit, error)))
        return await self._post(visit, "invite-by-email", {"email": visit.form.one("email")})

    async def choose_plan(self, visit: Visit) -> Response:
        """First step: which plan."""
        return await self._respond(visit, await self._plan(visit, visit.form.some(*CARRIED)))

    async def _plan(self, visit: Visit, given: Mapping[str, str]) -> Answer:
        async with self._context.reading() as connection:
            plans = await queries.plans_on_sale(connection)
        return Answer("flow", "flow/plan.html", {"plans": plans, "given": given})

    async def name_person(self, visit: Visit) -> Response:
        """Second step: whom the account is for."""
        given = visit.form.some(*CARRIED)
        if not given.get("plan"):
            return await self.choose_plan(visit)
        return await self._respond(visit, Answer("flow", "flow/person.html", {"given": given, "errors": Texts()}))

    async def show_payment(self, visit: Visit) -> Response:
        """Third step: what it costs, and how that is paid."""
        given = visit.form.some(*CARRIED)
        async with self._context.reading() as connection:
            on_sale = {each.plan: each for each in await queries.plans_on_sale(connection)}
            account = await queries.account(connection, visit.caller.id)
        if (plan := on_sale.get(given.get("plan", ""))) is None:
            return await self.choose_plan(visit)
        if errors := _errors(visit, given, plan.price_units):
            return await self._respond(visit, Answer("flow", "flow/person.html", {"given": given, "errors": errors}))
        facts = {
            "given": Texts({**given, "price": str(plan.price_units)}),
            "plan": plan,
            "account": account,
            "platform": str(self._context.settings.platform_url),
        }
        return await self._respond(visit, Answer("flow", "flow/payment.html", facts))

    async def create(self, visit: Visit) -> Response:
        """Ask for the account, and show how it comes into being."""
        given = visit.form.some(*CARRIED)
        price = _whole_number(given.get("price", ""))
        if price is None or _errors(visit, given, price):
            return await self.show_payment(visit)
        return await self._post(visit, "create-member-account", {**_person(given), "price_units": price})

    # --- members ------------------------------------------------------------------------------------------------------

    async def _chosen(self, visit: Visit) -> tuple[views.Choice, queries.Account]:
        async with self._context.reading() as connection:
            members = await queries.members_of(connection, visit.caller.id)
            account = await queries.account(connection, visit.caller.id)
        return views.choose(members, visit.form.all("member"), bool(visit.form.one("all"))), account

    async def confirm_detaching(self, visit: Visit) -> Response:
        """Ask once, before members are removed."""
        choice, _ = await self._chosen(visit)
        if not choice.members:
            return await self._wrong(visit, N_("Choose one or several members first."))
        return await self._respond(visit, Answer("members-answer", "confirm_detach.html", {"choice": choice}))

    async def detach(self, visit: Visit) -> Response:
        """Remove members."""
        members = [{"member_id": id_, "epoch": epoch} for id_, epoch in _ticked(visit)]
        return await self._post(visit, "detach-members", {"members": members})

    async def _quote(self, visit: Visit) -> tuple[views.Quote | None, str]:
        """Give what the transfer that the form asks for would cost, or what the form lacks."""
        choice, account = await self._chosen(visit)
        amount = _whole_number(visit.form.one("amount"))
        mode = "top_up_to" if visit.form.one("mode") == "top_up_to" else "amount"
        if not choice.members:
            return None, N_("Choose one or several members first.")
        if amount is None:
            return None, N_("Give a whole number of POP units, 1 or more.")
        return views.Quote(mode, amount, choice, account.available_units), ""

    async def cost(self, visit: Visit) -> Response:
        """Say what a transfer would cost, while it is being put together."""
        quote, lacking = await self._quote(visit)
        facts = {**self._facts(visit), "quote": quote, "lacking": lacking}
        return HTMLResponse(visit.speech.render("cost.html", **facts))

    async def confirm_transfer(self, visit: Visit) -> Response:
        """Show what a transfer costs and leaves, and ask once."""
        quote, lacking = await self._quote(visit)
        if quote is None:
            return await self._wrong(visit, lacking)
        if not quote.cost:
            return await self._wrong(visit, N_("Everybody you have chosen has as much already: nothing to transfer."))
        if quote.left < 0:
            return await self._wrong(visit, N_("You do not have enough POP units for this. Nothing was taken."))
        return await self._respond(visit, Answer("members-answer", "confirm_transfer.html", {"quote": quote}))

    async def transfer(self, visit: Visit) -> Response:
        """Transfer units."""
        members = [id_ for id_, _ in _ticked(visit)]
        amount, mode = _whole_number(visit.form.one("amount")), visit.form.one("mode")
        return await self._post(
            visit, "transfer-units", {"mode": mode, "amount_units": amount, "members": tuple(members)}
        )

    async def _wrong(self, visit: Visit, message: str) -> Response:
        return await self._respond(
            visit, Answer("members-answer", "answers/refused.html", {"why": visit.speech.say(message)})
        )

    # --- invitations, and other people's groups -----------------------------------------------------------------------

    async def answer_invitation(self, command: str, visit: Visit) -> Response:
        """Accept an invitation, decline it, or withdraw it."""
        return await self._post(visit, command, {"invitation_id": visit.request.path_params["id"]})

    async def confirm_leaving(self, visit: Visit) -> Response:
        """Ask once, before the visitor leaves a group."""
        async with self._context.reading() as connection:
            joined = await queries.memberships_of(connection, visit.caller.id)
        group = next((each for each in joined if each.group_id == visit.request.path_params["id"]), None)
        if group is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return await self._respond(visit, Answer("joined-answer", "confirm_leave.html", {"group": group}))

    async def leave(self, visit: Visit) -> Response:
        """Leave a group."""
        fields = {"group_id": visit.request.path_params["id"], "epoch": _whole_number(visit.form.one("epoch"))}
        return await self._post(visit, "leave-group", fields)

    # --- what becomes of what was asked for ---------------------------------------------------------------------------

    async def _post(self, visit: Visit, name: str, fields: Mapping[str, Any]) -> Response:
        """Put a command on its way, once, however often the form is sent; and show what becomes of it."""
        try:
            command = command_of(POSTABLE[name], fields, visit.caller.id)
        except ValidationError as error:
            raise BadForm(name) from error
        content = sha256(command.to_json()).hexdigest()
        id_ = derive_own(visit.caller.id, f"page/{name}/{visit.form.one('once')}/{content}")
        await self._context.limits.command_of(visit.caller.id)
        await self._context.post(command, visit.caller.id, id_)
        if not visit.is_live:
            ended = await wait_for(self._context, id_, visit.caller.id)
            if ended is None or not _leads_on(ended):
                return RedirectResponse(f"/commands/{id_}", HTTPStatus.SEE_OTHER)
        return await self._follow(visit, id_)

    async def follow(self, visit: Visit) -> Response:
        """Show what has become of a command; whoever can't ask again by themselves is answered once it has ended.

        A form carries what is needed to go on.
        """
        id_ = visit.request.path_params["id"]
        if not visit.is_live:
            await wait_for(self._context, id_, visit.caller.id)
        return await self._follow(visit, id_)

    async def _follow(self, visit: Visit, id_: UUID) -> Response:
        async with self._context.reading() as connection:
            command = await queries.command(connection, id_, visit.caller.id)
        if command is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return await self._respond(visit, await self._outcome(visit, command))

    async def _outcome(self, visit: Visit, command: queries.Command) -> Answer:
        region, given = REGIONS[command.type], visit.form.some(*CARRIED)
        facts = {
            "command": command,
            "region": region,
            "given": given,
            "pending": visit.speech.say(PENDING[command.type]),
        }
        if command.type == "create-member-account":
            return Answer(region, "flow/progress.html", {**facts, **_progress(command)}, has_news=_is_done(command))
        if command.state is CommandState.PENDING:
            return Answer(region, "answers/pending.html", facts)
        if command.state is CommandState.REFUSED:
            return self._refused(visit, command, facts)
        return await self._done(visit, command, facts)

    def _refused(self, visit: Visit, command: queries.Command, facts: Mapping[str, Any]) -> Answer:
        why = visit.speech.refusal(command.code)
        if command.type == "rename-group":
            return Answer("title", "title_form.html", {"name": visit.form.one("name"), "error": why})
        if command.type == "invite-by-email":
            return Answer("flow", "flow/invite.html", _asked_for(visit, why))
        return Answer(str(facts["region"]), "answers/refused.html", {**facts, "why": why}, has_news=True)

    async def _done(self, visit: Visit, command: queries.Command, facts: Mapping[str, Any]) -> Answer:
        said = visit.speech.say(DONE[command.type])
        if _leads_on(command):
            return await self._plan(visit, facts["given"])
        if command.type == "rename-group":
            async with self._context.reading() as connection:
                group = await queries.group_of_owner(connection, visit.caller.id)
            return Answer("title", "parts/title.html", {"group": group, "oob": False}, said, has_news=True)
        if command.type == "invite-by-email":
            sent = {"email": "", "error": "", "sent_to": facts["given"].get("email", "")}
            return Answer("flow", "flow/invite.html", sent, has_news=True)
        return Answer(str(facts["region"]), "answers/done.html", {**facts, "said": said}, said, has_news=True)

    # --- how it is answered -------------------------------------------------------------------------------------------

    async def _respond(self, visit: Visit, answer: Answer) -> Response:
        """Give a part of the page to htmx, and to everybody else the page with that part in its place."""
        if not visit.is_live:
            return await self._whole(visit, answer)
        facts = self._facts(visit)
        text = visit.speech.render(answer.template, **{**facts, **answer.facts})
        if answer.toast:
            text += visit.speech.render("toast.html", said=answer.toast)
        return HTMLResponse(text, headers={"HX-Trigger": "refresh"} if answer.has_news else None)

    def _facts(self, visit: Visit) -> dict[str, Any]:
        """Give what every template may speak of."""
        proof = session.proof(visit.secret)
        return {"proof": proof, "once": partial(token_hex, 8), "is_live": visit.is_live, "steps": STEPS}

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Say that there is nothing, or nothing for the visitor."""
        assert isinstance(error, HTTPException)
        return self._failure(_browsers(request), request, HTTPStatus(error.status_code), N_("There is nothing here."))

    async def bad_form(self, request: Request, _: Exception) -> Response:
        """Say that the form can't be read."""
        message = N_("This could not be understood. Please check what you have entered.")
        return self._failure(_browsers(request), request, HTTPStatus.UNPROCESSABLE_ENTITY, message)

    async def away(self, request: Request, error: Exception) -> Response:
        """Say that it would work at another time."""
        log.warning("page_away", error=type(error).__name__)
        message = N_("We can't be reached at the moment. Please try again shortly.")
        return self._failure(_browsers(request), request, HTTPStatus.SERVICE_UNAVAILABLE, message)

    async def database(self, request: Request, error: Exception) -> Response:
        """Say that it would work at another time, unless it would not."""
        if not is_of_the_world(error):
            raise error
        return await self.away(request, error)

    async def too_many(self, request: Request, error: Exception) -> Response:
        """Say that it was too much at once."""
        assert isinstance(error, TooMany)
        return self.slow_down(request, error)

    def slow_down(self, request: Request, error: TooMany) -> Response:
        """Say that it was too much at once, and when to come back."""
        message = N_("That was too much at once. Please wait a moment, and try again.")
        response = self._failure(_browsers(request), request, HTTPStatus.TOO_MANY_REQUESTS, message)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    async def gone(self, _: Request, __: Exception) -> Response:
        """Say nothing: they hung up in the middle of what they sent."""
        return Response(status_code=HTTPStatus.BAD_REQUEST)

    async def bug(self, request: Request, _: Exception) -> Response:
        """Say that it is our fault."""
        message = N_("Something went wrong on our side. Nothing was lost; please try again.")
        return self._failure(_browsers(request), request, HTTPStatus.INTERNAL_SERVER_ERROR, message)

    def _failure(self, speech: Speech, request: Request, status: HTTPStatus, message: str) -> Response:
        facts = {"status": int(status), "message": speech.say(message)}
        return HTMLResponse(speech.render("failure.html", **facts), status)


def _no_stream(full: Full) -> Response:
    """The page's script comes back by itself, later and later."""
    status = HTTPStatus.TOO_MANY_REQUESTS if full.of_one else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status_code=status, headers={"Retry-After": "10"})


def _browsers(request: Request) -> Speech:
    """Give the language of somebody who is not known."""
    return choose(session.language_of(request), None, request.headers.get("accept-language", ""))


def _filter(visit: Visit) -> Filter:
    wanted = visit.request.query_params.get("filter", "")
    return Filter(wanted) if wanted in set(Filter) else Filter.ALL


def _whole_number(text: str) -> int | None:
    digits = text.replace("\u202f", "").replace("\u00a0", "").replace(" ", "")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else 0
    return number if 0 < number <= MAX_UNITS else None


def _ticked(visit: Visit) -> list[tuple[UUID, int]]:
    """Read the checkboxes; raises `BadForm`."""
    try:
        found = [each.partition(".") for each in visit.form.all("member")]
        return [(UUID(id_), int(epoch)) for id_, _, epoch in found]
    except ValueError as error:
        raise BadForm("member") from error


def _asked_for(visit: Visit, error: str) -> dict[str, str]:
    return {"email": visit.form.one("email"), "error": error, "sent_to": ""}


def _person(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "") for name in ("plan", "email", "first_name", "last_name", "language")}


def _errors(visit: Visit, given: Mapping[str, str], price: int) -> Texts:
    """Give what is wrong with a person's details, by field."""
    fields = {**_person(given), "price_units": price}
    try:
        command_of(POSTABLE["create-member-account"], fields, visit.caller.id)
    except ValidationError as error:
        found = {str(each["loc"][0]): each["type"] for each in error.errors()}
        return Texts({name: visit.speech.say(_WRONG.get(name) or _wrong_name(kind)) for name, kind in found.items()})
    return Texts()


_WRONG = {
    "email": N_("This does not look like an e-mail address."),
    "language": N_("Choose a language."),
}

_WRONG_NAMES = {
    "web_address": N_("A name can’t hold a web address. If it is none, put a space after the dot."),
    "hidden_character": N_("This name holds a character that can’t be seen everywhere. Please type it again."),
    "stacked_marks": N_("This name holds more accents than a letter has. Please type it again."),
}


def _wrong_name(kind: str) -> str:
    return _WRONG_NAMES.get(kind, N_("Give a name of one line, with at most 100 characters."))


def _is_done(command: queries.Command) -> bool:
    return command.state is not CommandState.PENDING


def _leads_on(command: queries.Command) -> bool:
    """Say whether nobody has the address, so that an account can be created for it."""
    return (command.result or {}).get("event") == "account-creation-required"


def _progress(command: queries.Command) -> dict[str, Any]:
    """Give how far an account has come: how many of its steps are behind it."""
    names = list(STEPS)
    if command.state is CommandState.DONE:
        return {"behind": len(names)}
    return {"behind": names.index(command.step) if command.step in names else 0}
