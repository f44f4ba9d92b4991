"""The methods that an address takes."""

from starlette.requests import Request
from starlette.routing import Match, Route

_OF_FILES = {"GET", "HEAD"}
"""Beyond the mount of static files, the routes know no path any more."""


def allowed(request: Request) -> str:
    """Return what `Allow` says of a request's path: the methods of all routes that have it."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return ", ".join(sorted(found or _OF_FILES))
