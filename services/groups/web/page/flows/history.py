"""The history, page by page: everybody's or one member's, of all time or of some days."""

from http import HTTPStatus
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from services.groups.web import people
from services.groups.web.cursor import BadCursor, Cursor
from services.groups.web.page import views
from services.groups.web.page.asked import Asked, asked
from services.groups.web.page.visit import Visit
from services.groups.web.page.words import N_

MOST_CALLED = 20
"""So many of those who are called alike are named."""


async def history(visit: Visit) -> Response:
    """Show the newest lines, or those after a cursor."""
    wanted, after = asked(visit.request.query_params), cursor_of(visit)
    sought = visit.request.query_params.get("who", "").strip()[:100]
    found = await _called(visit, sought) if sought else ()
    if len(found) == 1:
        address = f"/history{wanted.query(member_id=found[0].member_id)}"
        return RedirectResponse(address, HTTPStatus.SEE_OTHER)
    view, member = await _read(visit, wanted, after)
    if visit.is_live:
        return visit.render("parts/history_lines.html" if after else "parts/history.html", history=view, oob=True)
    error = wanted.error or (N_("Nobody in your group is called that.") if sought and not found else "")
    values = {"history": view, "member": member, "sought": sought, "found": found, "error": error}
    return visit.render("history.html", **values, oob=False)


async def _called(visit: Visit, text: str) -> tuple[people.KnownMember, ...]:
    async with visit.context.reading() as connection:
        return tuple(await people.called(connection, visit.caller.id, text, MOST_CALLED))


async def _read(
    visit: Visit, wanted: Asked, after: Cursor | None
) -> tuple[views.HistoryView, people.KnownMember | None]:
    if wanted.error:
        return views.HistoryView(wanted, (), None), None
    async with visit.context.reading() as connection:
        member = await known(visit, connection, wanted.member_id)
        of_owner = wanted.wanted(visit.caller.id, visit.speech.dates)
        return await views.history_view(connection, wanted, of_owner, after, _here(visit, wanted)), member


def _here(visit: Visit, wanted: Asked) -> str:
    """Return the page that the lines are shown on: the group's and a member's have htmx turn their tabs."""
    if not visit.is_live:
        return "/history"
    return f"/members/{wanted.member_id}" if wanted.member_id else "/"


async def known(visit: Visit, connection: AsyncConnection, member_id: UUID | None) -> people.KnownMember | None:
    """Return the member whose lines are asked for, if it is one's. Raises `HTTPException` if they never were one."""
    if member_id is None:
        return None
    member = await people.member(connection, visit.caller.id, member_id)
    if member is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return member


def cursor_of(visit: Visit) -> Cursor | None:
    """Return where the page before ended. Raises `HTTPException` for what nobody was ever given."""
    cursor = visit.request.query_params.get("cursor")
    try:
        return Cursor.parse(cursor) if cursor else None
    except BadCursor as error:
        raise HTTPException(HTTPStatus.NOT_FOUND) from error
