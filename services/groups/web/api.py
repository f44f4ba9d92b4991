"""The query API, `/v1`: what is the caller's, what became of what they asked for, and what they ask for now.

Routes are about whom the token speaks for. Somebody else's group is not there for them: 404, as for one that never was.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from popfax_contracts import message as contract
from popfax_contracts.fields import Timestamp
from popfax_contracts.message import group_of
from services.groups.commands import POSTABLE
from services.groups.domain import CommandState
from services.groups.web import lines, members, orders, people, queries, sessions
from services.groups.web.asking import as_described, in_query
from services.groups.web.auth import BadToken, Caller
from services.groups.web.changes import EventStream, Full
from services.groups.web.conditional import Conditional
from services.groups.web.context import WebContext
from services.groups.web.cursor import BadCursor, Cursor
from services.groups.web.ending import Ending
from services.groups.web.keys import NoKeys
from services.groups.web.limits import Throttle, TooMany
from services.groups.web.lines import Filter, HistoryPage, WantedLines
from services.groups.web.posting import IdConflict, command_of, id_for, is_about_own_group
from services.groups.web.problems import (
    Problem,
    ProblemError,
    answer_with_problems,
    documented,
    malformed,
    not_found,
    too_many,
    unavailable,
)
from services.groups.web.queries import View

MAX_BODY_BYTES = 256 * 1024
"""A thousand members fit in."""

OPEN = "/openapi.json"
"""What is shown without a token."""

T = TypeVar("T")

_ALWAYS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


class Items(View, Generic[T]):
    """All there are."""

    items: tuple[T, ...]


def api(context: WebContext) -> FastAPI:
    """Make the application, to be mounted under `/v1`."""
    app = FastAPI(
        title="Popfax Groups",
        version="1",
        summary="One subscriber runs, and pays for, the accounts of colleagues, branches or clients.",
        openapi_url=OPEN,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[
            Depends(HTTPBearer(auto_error=False, bearerFormat="JWT")),
            Depends(_unspent(context)),
            Depends(as_described),
        ],
        responses=documented(*_ALWAYS),
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would hold addresses with their queries
        generate_unique_id_function=lambda route: route.name,
    )
    answer_with_problems(app)
    _add_own(app, context)
    _add_group(app, context)
    _add_members(app, context)
    _add_history(app, context)
    _add_orders(app, context)
    _add_commands(app, context)
    _add_events(app, context)
    _answer_head(app)
    app.add_middleware(Conditional)
    app.add_middleware(_Door, context=context)
    app.add_middleware(Throttle, limits=context.limits, answer=_slow_down)
    app.add_middleware(Ending, answer=_stopping)
    _complete_openapi(app)
    return app


class _Door:
    """Lets nobody in without a good token, and reads nothing before. What leaves is for whoever asked alone."""

    def __init__(self, app: ASGIApp, context: WebContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in _HEADERS if each[0] not in given)]
            await send(message)

        request = Request(scope)
        try:
            if request.url.path == f"{scope.get('root_path', '')}{OPEN}":
                in_query(request, ())
            else:
                await self._let_in(request)
        except ProblemError as problem:
            return await problem.response()(scope, receive, guarded)
        return await self._app(scope, _bounded(receive), guarded)

    async def _let_in(self, request: Request) -> None:
        token = _bearer(request.headers.get("authorization"))
        request.state.token = token
        request.state.caller = caller = await _caller(self._context, token)
        try:
            await self._context.limits.request_of(caller.id)
        except TooMany as error:
            raise too_many(error.retry_after_s) from error


def _slow_down(_: Request, error: TooMany) -> Response:
    return too_many(error.retry_after_s).response()


def _stopping(_: Request) -> Response:
    return unavailable("stopping", "Please try again in a moment").response()


def _bounded(receive: Receive) -> Receive:
    """Read no more of a body than anybody needs to send."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    return bounded


_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def _bearer(header: str | None) -> str:
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _unauthorized("token_missing", "Bearer")
    return token.strip()


async def _caller(context: WebContext, token: str) -> Caller:
    try:
        return await context.tokens.caller(token)
    except BadToken as bad:
        raise _bad_token(bad.code) from bad
    except NoKeys as error:
        raise unavailable("keys_unavailable", "Tokens can't be checked now") from error


def _bad_token(code: str) -> ProblemError:
    return _unauthorized(code, f'Bearer error="invalid_token", error_description="{code}"')


def _unauthorized(code: str, challenge: str) -> ProblemError:
    title = "A good bearer token is needed"
    return ProblemError(HTTPStatus.UNAUTHORIZED, code, title, headers={"WWW-Authenticate": challenge})


def _unspent(context: WebContext) -> Callable[[Request], Awaitable[None]]:
    """A token that opened the page was in an address, where others may have read it: it opens nothing else."""

    async def check(request: Request) -> None:
        async with context.reading() as connection:
            if await sessions.is_spent(connection, request.state.token):
                raise _bad_token("token_spent")

    return check


def _authenticated(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(_authenticated)]


# --- what is the caller's ---------------------------------------------------------------------------------------------


def _add_own(app: FastAPI, context: WebContext) -> None:
    @app.get("/units")
    async def units(who: Who) -> queries.Account:
        """What the caller's own account says: what can be spent, and until when it works."""
        async with context.reading() as connection:
            return await queries.account(connection, who.id)

    @app.get("/memberships")
    async def memberships(who: Who) -> Items[queries.JoinedGroup]:
        """The groups of others that the caller is a member of. Of their owners: the name, and nothing else."""
        async with context.reading() as connection:
            return Items(items=await queries.memberships_of(connection, who.id))

    @app.get("/invitations")
    async def invitations(who: Who) -> Items[queries.ReceivedInvitation]:
        """The invitations that wait for the caller's answer."""
        async with context.reading() as connection:
            return Items(items=await queries.invitations_to(connection, who.id))

    @app.get("/plans")
    async def plans() -> Items[queries.PlanOnSale]:
        """The plans that an account can be created on, with today's prices."""
        async with context.reading() as connection:
            return Items(items=await queries.plans_on_sale(connection))


def _add_group(app: FastAPI, context: WebContext) -> None:
    absent = documented(HTTPStatus.NOT_FOUND)

    async def shown(owner_id: UUID) -> members.OwnGroup:
        async with context.reading() as connection:
            return await members.own_group(connection, owner_id)

    @app.get("/group")
    async def group(who: Who) -> members.OwnGroup:
        """The caller's own group: its name, its members with their state and units, its pending invitations.

        Of a large group the first members: `/group/members` has all.
        """
        return await shown(who.id)

    @app.get("/group/members/{member_id:uuid}", responses=absent)
    async def group_member(who: Who, member_id: UUID) -> people.KnownMember:
        """Somebody who is, or was, a member of the caller's own group, as the caller is shown them."""
        async with context.reading() as connection:
            found = await people.member(connection, who.id, member_id)
        if found is None:
            raise not_found()
        return found

    @app.get("/group/invitations")
    async def group_invitations(who: Who) -> Items[queries.PendingInvitation]:
        """The pending invitations into the caller's own group."""
        async with context.reading() as connection:
            return Items(items=await queries.invitations_by(connection, who.id))

    @app.get("/groups/{group_id:uuid}", responses=absent)
    async def group_by_id(who: Who, group_id: UUID) -> members.OwnGroup:
        """The group with an id, for its owner."""
        return await shown(_owner(who, group_id))


def _add_history(app: FastAPI, context: WebContext) -> None:
    async def told(owner_id: UUID, query: _HistoryQuery) -> HistoryPage:
        try:
            after = None if query.cursor is None else Cursor.parse(query.cursor)
        except BadCursor as error:
            raise malformed([{"loc": ("query", "cursor"), "type": "not_a_cursor"}]) from error
        wanted = WantedLines(owner_id, query.filter, query.member, query.since, query.before)
        async with context.reading() as connection:
            return await lines.page_of(connection, wanted, after, query.limit)

    @app.get("/history")
    async def history(who: Who, query: _Query) -> HistoryPage:
        """The history of the caller's own group, newest first."""
        return await told(who.id, query)

    @app.get("/groups/{group_id:uuid}/history", responses=documented(HTTPStatus.NOT_FOUND))
    async def history_by_id(who: Who, group_id: UUID, query: _Query) -> HistoryPage:
        """The history of the group with an id, for its owner."""
        return await told(_owner(who, group_id), query)


def _add_members(app: FastAPI, context: WebContext) -> None:
    @app.get("/group/members")
    async def group_members(who: Who, query: Annotated[_MembersQuery, Query()]) -> members.MembersPage:
        """The members of the caller's own group, with their state and units, page by page."""
        try:
            async with context.reading() as connection:
                return await members.read_page(connection, who.id, query.wanted, query.limit, after=query.cursor)
        except BadCursor as error:
            raise malformed([{"loc": ("query", "cursor"), "type": "not_a_cursor"}]) from error


class _OrdersQuery(BaseModel):
    """Which standing orders, and how many."""

    model_config = ConfigDict(extra="forbid")

    cursor: UUID | None = Field(None, description="`next` of the page before")
    limit: int = Field(50, ge=1, le=200)


def _add_orders(app: FastAPI, context: WebContext) -> None:
    @app.get("/group/orders")
    async def group_orders(who: Who, query: Annotated[_OrdersQuery, Query()]) -> orders.OrdersPage:
        """The standing orders of members of the caller's own group, those that are paused included."""
        async with context.reading() as connection:
            return await orders.read_page(connection, who.id, query.cursor, query.limit)


class _HistoryQuery(BaseModel):
    """Which lines of a history, and how many."""

    model_config = ConfigDict(extra="forbid")

    filter: Filter = Filter.ALL
    member: UUID | None = Field(None, description="whose lines: a member of today or of before, or somebody invited")
    since: Timestamp | None = Field(None, alias="from", description="the first moment of the period")
    before: Timestamp | None = Field(None, description="the first moment behind the period")
    cursor: str | None = Field(None, max_length=100, description="`next` of the page before")
    limit: int = Field(50, ge=1, le=200)


_Query = Annotated[_HistoryQuery, Query()]


class _MembersQuery(members.Wanted):
    """Which members, and how many."""

    cursor: str | None = Field(None, max_length=100, description="`next` of the page before, of the same query")
    limit: int = Field(200, ge=1, le=200)

    @property
    def wanted(self) -> members.Wanted:
        """Return what pages of one list have in common."""
        return members.Wanted(**self.model_dump(include=set(members.Wanted.model_fields)))


def _owner(who: Caller, group_id: UUID) -> UUID:
    if group_of(who.id) != group_id:
        raise not_found()
    return who.id


# --- what the caller asks for -----------------------------------------------------------------------------------------

_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,200}$",
        description="the same key of the same person with the same command asks once",
    ),
]


def _add_commands(app: FastAPI, context: WebContext) -> None:
    @app.get("/commands/{id:uuid}", responses=documented(HTTPStatus.NOT_FOUND))
    async def command(who: Who, id_: Annotated[UUID, Path(alias="id")]) -> queries.Command:
        """What became of a command that the caller posted: pending, done, or refused with its code."""
        return await _told(context, id_, who)

    for name, model in POSTABLE.items():
        app.add_api_route(
            f"/commands/{name}",
            _poster(context, model),
            methods=["POST"],
            name=f"post_{name.replace('-', '_')}",
            summary=name,
            description=f"{inspect.getdoc(model)}\n\n{model.outcomes_in_words()}",
            status_code=HTTPStatus.ACCEPTED,
            responses={
                **documented(
                    HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE
                ),
                200: {
                    "description": "It came with a key that was used for it before, and has ended: done, or refused.",
                    "model": queries.Command,
                    "headers": _LOCATION,
                },
                202: {"description": "It is on its way.", "headers": _LOCATION},
            },
        )


_LOCATION = {"Location": {"description": "where to ask what became of it", "schema": {"type": "string"}}}


async def _told(context: WebContext, id_: UUID, who: Caller) -> queries.Command:
    async with context.reading() as connection:
        found = await queries.command(connection, id_, who.id)
    if found is None:
        raise not_found()
    return found


def _poster(context: WebContext, model: type[contract.Command]) -> Callable[..., Awaitable[queries.Command]]:
    async def post(who: Who, body: Any, request: Request, response: Response, key: _Key = None) -> queries.Command:
        try:
            command = command_of(model, body.model_dump(exclude_unset=True), who.id)
        except ValidationError as error:
            raise malformed([{**found, "loc": ("body", *found["loc"])} for found in error.errors()]) from error
        id_ = id_for(key, who.id)
        try:
            await context.limits.command_of(who.id)
            await context.post(command, who.id, id_)
        except TooMany as error:
            raise too_many(error.retry_after_s) from error
        except IdConflict as error:
            title = "The same key came with another command"
            raise ProblemError(HTTPStatus.CONFLICT, "id_conflict", title) from error
        told = await _told(context, id_, who)
        if told.state is not CommandState.PENDING:
            response.status_code = HTTPStatus.OK
        response.headers["Location"] = f"{request.scope.get('root_path', '')}/commands/{id_}"
        return told

    post.__annotations__["body"] = _body_of(model)
    return post


def _body_of(model: type[contract.Command]) -> type[BaseModel]:
    """Make the model of what is posted: the command, without the group where that is the actor's own."""
    left_out = {"group_id"} if is_about_own_group(model) else set()
    fields: Mapping[str, Any] = {
        name: (field.annotation, field) for name, field in model.model_fields.items() if name not in left_out
    }
    return create_model(
        model.__name__, __config__=ConfigDict(extra="forbid", frozen=True), __doc__=inspect.getdoc(model), **fields
    )


# --- what changes -----------------------------------------------------------------------------------------------------


def _add_events(app: FastAPI, context: WebContext) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "`event: connected` at once, then `event: changed` whenever something of what the other"
            " routes show the caller has changed, until the token ends",
            "content": {EventStream.media_type: {"schema": {"type": "string"}}},
        }
    }

    @app.get("/events", status_code=HTTPStatus.OK, response_class=EventStream, responses=responses)
    async def events(
        who: Who,
        last_event_id: Annotated[str | None, Header(max_length=100, description="the last one that came")] = None,
    ) -> Response:
        """Server-sent events. Connect first, read afterwards: then no change is missed."""
        return EventStream(context.feed, who, last_event_id, _no_stream)


def _no_stream(full: Full) -> Response:
    if full.of_one:
        return too_many(10, "too_many_streams", "You have as many streams of events as one person may have").response()
    return unavailable("too_many_connections", "Too many are connected: ask again later, or poll").response()


# --- what OpenAPI says ------------------------------------------------------------------------------------------------


def _complete_openapi(app: FastAPI) -> None:
    """Describe problems once, as what they are: FastAPI knows errors of its own shape alone.

    HEAD goes without saying, and what all that is read has in common is added here.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            routes = [_without_head(route) for route in app.routes]
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=routes)
            made["components"]["schemas"]["Problem"] = Problem.model_json_schema()
            for methods in made["paths"].values():
                _describe_tag(methods.get("get", {}).get("responses", {}))
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _answer_head(app: FastAPI) -> None:
    """Let every route that answers GET answer HEAD, as Starlette's own do (RFC 9110, 9.1)."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods == {"GET"}:
            route.methods.add("HEAD")


def _without_head(route: BaseRoute) -> BaseRoute:
    described = copy(route)
    if isinstance(described, APIRoute) and described.methods:
        described.methods = described.methods - {"HEAD"}
    return described


def _describe_tag(responses: dict[str, Any]) -> None:
    read = responses.get("200", {})
    if "application/json" in read.get("content", {}):
        tag = {"description": "names what is said: with it in `If-None-Match`, the same is not sent again"}
        read["headers"] = {"ETag": {**tag, "schema": {"type": "string"}}}
        responses["304"] = {"description": HTTPStatus.NOT_MODIFIED.phrase}
