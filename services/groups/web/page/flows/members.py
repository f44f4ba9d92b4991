"""The list of members; members who are removed, and groups of others that are left.

Each is asked once before it is done.
"""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.groups.web import queries
from services.groups.web.page import split, views
from services.groups.web.page.asked import Asked
from services.groups.web.page.flows import commands
from services.groups.web.page.flows.history import known
from services.groups.web.page.forms import whole_number
from services.groups.web.page.selection import chosen, has_changed, is_all_found, refused, ticked
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import NOBODY_CHOSEN


async def listed(visit: Visit) -> Response:
    """Show the members that are looked for: to htmx the list, to everybody else the page."""
    if not visit.is_live:
        return await visit.show_page()
    owner_id = visit.caller.id
    async with visit.context.reading() as connection:
        group = await queries.group_of_owner(connection, owner_id)
        members = await views.members_view(connection, owner_id, group, visit.search, visit.speech)
    return visit.render("members.html", members=members, oob=False)


async def show(visit: Visit) -> Response:
    """Show somebody who is, or was, a member, with their lines of the history."""
    id_ = visit.request.path_params["id"]
    wanted = Asked(visit.filter, id_)
    of_owner = wanted.wanted(visit.caller.id, visit.speech.dates)
    async with visit.context.reading() as connection:
        member = await known(visit, connection, id_)
        view = await views.history_view(connection, wanted, of_owner, None, here=f"/members/{id_}")
    return visit.render("member.html", member=member, history=view, oob=False)


async def confirm_detaching(visit: Visit) -> Response:
    """Ask once, before members are removed."""
    choice, _ = await chosen(visit)
    if not choice.members:
        return await refused(visit, NOBODY_CHOSEN)
    return await _ask_to_detach(visit, choice)


async def detach(visit: Visit) -> Response:
    """Remove members. If a search finds others than those who were confirmed, ask again."""
    named = ticked(visit.form)
    if is_all_found(visit):
        choice, _ = await chosen(visit)
        if has_changed(visit, choice):
            return await _ask_to_detach(visit, choice, changed=True)
        named = [(each.member_id, each.epoch) for each in choice.members]
    parts = [
        {"members": [{"member_id": id_, "epoch": epoch} for id_, epoch in part]} for part in split.cut(sorted(named))
    ]
    return await commands.post_all(visit, "detach-members", parts, len(named))


async def _ask_to_detach(visit: Visit, choice: views.Choice, changed: bool = False) -> Response:
    return await visit.show(Answer("members-answer", "confirm_detach.html", {"choice": choice, "changed": changed}))


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
