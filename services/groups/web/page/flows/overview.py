"""What may have changed of the page, and the stream that says when."""

from http import HTTPStatus

from starlette.responses import Response

from services.groups.web.changes import EventStream, Full
from services.groups.web.page.visit import Visit


async def parts(visit: Visit) -> Response:
    """Show what may have changed, each part in the place of the one before."""
    return visit.render("parts.html", shown=await visit.shown(), oob=True)


async def events(visit: Visit) -> Response:
    """Say when something has changed since the page was shown, or since the last event."""
    seen = visit.request.headers.get("last-event-id") or visit.request.query_params.get("seen")
    return EventStream(visit.context.feed, visit.caller, (seen or "")[:100] or None, _no_stream)


def _no_stream(full: Full) -> Response:
    """The page's script comes back by itself, later and later."""
    status = HTTPStatus.TOO_MANY_REQUESTS if full.of_one else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status_code=status, headers={"Retry-After": "10"})
