"""What a request to the API may bring: nothing that somebody asks for is left out in silence."""

from collections.abc import Collection, Iterator

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request

from services.groups.web.problems import malformed, not_json


async def as_described(request: Request) -> None:
    """Refuse a query that the route does not know, and a body that is not said to be JSON. Raises `ProblemError`."""
    route: APIRoute = request.scope["route"]
    in_query(request, set(_parameters_of(route)))
    if request.method == "POST" and not _is_json(request.headers.get("content-type", "")):
        raise not_json()


def in_query(request: Request, known: Collection[str]) -> None:
    """Refuse a query with parameters that nobody knows. Raises `ProblemError`."""
    if unknown := [name for name in request.query_params if name not in known]:
        raise malformed([{"loc": ("query", name), "type": "extra_forbidden"} for name in unknown])


def _parameters_of(route: APIRoute) -> Iterator[str]:
    """Yield the names of all parameters that a route's query may have."""
    for field in route.dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from (each.alias or name for name, each in model.model_fields.items())
        else:
            yield field.alias


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
