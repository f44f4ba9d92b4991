"""Members who are removed, and groups of others that are left. Each is asked once before it is done."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.groups.web import queries
from services.groups.web.page.flows import commands
from services.groups.web.page.forms import whole_number
from services.groups.web.page.selection import chosen, refused, ticked
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import NOBODY_CHOSEN


async def confirm_detaching(visit: Visit) -> Response:
    """Ask once, before members are removed."""
    choice, _ = await chosen(visit)
    if not choice.members:
        return await refused(visit, NOBODY_CHOSEN)
    return await visit.show(Answer("members-answer", "confirm_detach.html", {"choice": choice}))


async def detach(visit: Visit) -> Response:
    """Remove members."""
    members = [{"member_id": id_, "epoch": epoch} for id_, epoch in ticked(visit.form)]
    return await commands.post(visit, "detach-members", {"members": members})


async def confirm_leaving(visit: Visit) -> Response:
    """Ask once, before the visitor leaves a group."""
    async with visit.context.reading() as connection:
        joined = await queries.memberships_of(connection, visit.caller.id)
    group = next((each for each in joined if each.group_id == visit.request.path_params["id"]), None)
    if group is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return await visit.show(Answer("joined-answer", "confirm_leave.html", {"group": group}))


async def leave(visit: Visit) -> Response:
    """Leave a group."""
    fields = {"group_id": visit.request.path_params["id"], "epoch": whole_number(visit.form.one("epoch"))}
    return await commands.post(visit, "leave-group", fields)
