"""What an error looks like: problem details (RFC 9457) with a stable `code`, whoever found it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.chassis.database import Conflict, Outage
from services.chassis.postgres import translate
from services.groups.web.methods import allowed
from services.groups.web.rules import RULES, broken

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_MOST_ERRORS = 20

_CODES = {
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
}
"""What the framework answers by itself."""

_TITLES = {
    HTTPStatus.NOT_FOUND: "There is nothing here that you may see",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large",
}

DATABASE_ERRORS = (Outage, Conflict, sa.exc.SQLAlchemyError)
"""What comes of a database: its state, mostly (`is_of_the_world`)."""


class Problem(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="`urn:popfax:problem:` and the code")
    title: str
    status: int
    code: str = Field(description="stable, and meant for programs")
    errors: tuple[str, ...] | None = Field(
        None,
        description="the fields that are not as they should be, and the rules that they break; no contents. The rules: "
        + "; ".join(f"`{rule}`, {meaning}" for rule, meaning in RULES.items()),
    )


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        title: str = "",
        errors: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.headers = headers
        self.problem = Problem(
            type=f"urn:popfax:problem:{code}",
            title=title or status.phrase,
            status=status.value,
            code=code,
            errors=None if errors is None else tuple(errors[:_MOST_ERRORS]),
        )

    def response(self) -> Response:
        """Return the answer."""
        body = self.problem.model_dump_json(exclude_none=True)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def not_found() -> ProblemError:
    """It is not there; or it is, and not for the caller, who must not learn that."""
    return ProblemError(HTTPStatus.NOT_FOUND, "not_found", _TITLES[HTTPStatus.NOT_FOUND])


def malformed(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    """Name the fields and the rules that they break. What they hold is left out: it may be personal."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "malformed", "The request can't be read", broken(errors))


def not_json() -> ProblemError:
    """The body is said to be something else, or nothing is said of it."""
    status, title = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be JSON, and Content-Type must say so"
    return ProblemError(status, "unsupported_media_type", title, headers={"Accept": "application/json"})


def unavailable(code: str, title: str) -> ProblemError:
    """It would work at another time."""
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, code, title, headers={"Retry-After": "2"})


def too_many(
    retry_after_s: int, code: str = "too_many_requests", title: str = "You ask too often: wait before you go on"
) -> ProblemError:
    """It would work later, asked less often."""
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, code, title, headers={"Retry-After": str(retry_after_s)})


def answer_with_problems(app: FastAPI) -> None:
    """Let every error of an application be a problem: ours, the framework's, the database's, and bugs."""

    async def ours(_: Request, error: ProblemError) -> Response:
        return error.response()

    async def unreadable(_: Request, error: RequestValidationError) -> Response:
        return malformed(error.errors()).response()

    async def http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        if status is HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that is no text
            return malformed([{"loc": ("body",), "type": "json_invalid"}]).response()
        headers = {"Allow": allowed(request)} if status is HTTPStatus.METHOD_NOT_ALLOWED else error.headers
        return ProblemError(status, _CODES.get(status, "refused"), _TITLES.get(status, ""), headers=headers).response()

    async def database(_: Request, error: Exception) -> Response:
        if not is_of_the_world(error):
            raise error  # a bug, and it goes the way of all others
        return unavailable("database_away", "Please try again in a moment").response()

    async def bug(_: Request, __: Exception) -> Response:
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error").response()

    app.add_exception_handler(ProblemError, ours)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, unreadable)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, database)
    app.add_exception_handler(Exception, bug)


def is_of_the_world(error: Exception) -> bool:
    """Return whether a request failed on the state of the database, and would work at another time; log it if so."""
    cause = error if isinstance(error, Outage | Conflict) else translate(error)
    if cause is not None:
        log.warning("database_away", error=type(cause).__name__, detail=str(cause))
    return cause is not None


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of the problems that a route may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status.value: {"description": status.phrase, "content": {MEDIA_TYPE: schema}} for status in sorted(statuses)
    }
