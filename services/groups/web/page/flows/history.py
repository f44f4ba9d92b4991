"""The history, page by page."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.groups.web.cursor import BadCursor, Cursor
from services.groups.web.page import views
from services.groups.web.page.visit import Visit


async def history(visit: Visit) -> Response:
    """Show the newest lines, or those after a cursor."""
    cursor = visit.request.query_params.get("cursor")
    try:
        after = Cursor.parse(cursor) if cursor else None
    except BadCursor as error:
        raise HTTPException(HTTPStatus.NOT_FOUND) from error
    async with visit.context.reading() as connection:
        lines = await views.history_view(connection, visit.caller.id, visit.filter, after)
    if not visit.is_live:
        return visit.render("history.html", history=lines, oob=False)
    return visit.render("parts/history_lines.html" if after else "parts/history.html", history=lines, oob=True)
