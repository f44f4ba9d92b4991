"""Members that somebody has ticked: what the flows begin with that are about several of them."""

from uuid import UUID

from starlette.responses import Response

from services.groups.web import queries
from services.groups.web.page import views
from services.groups.web.page.forms import BadForm, Form
from services.groups.web.page.visit import Answer, Visit


async def chosen(visit: Visit) -> tuple[views.Choice, queries.Account]:
    """Return who is ticked among the members of today, and the owner's account."""
    async with visit.context.reading() as connection:
        members = await queries.members_of(connection, visit.caller.id)
        account = await queries.account(connection, visit.caller.id)
    return views.choose(members, visit.form.all("member"), bool(visit.form.one("all"))), account


async def refused(visit: Visit, message: str) -> Response:
    """Say, beside the members, why nothing can be done with them."""
    return await visit.show(Answer("members-answer", "answers/refused.html", {"why": visit.speech.say(message)}))


def ticked(form: Form) -> list[tuple[UUID, int]]:
    """Read the checkboxes: each member's id, and which of their memberships it is. Raises `BadForm`."""
    try:
        found = [each.partition(".") for each in form.all("member")]
        return [(UUID(id_), int(epoch)) for id_, _, epoch in found]
    except ValueError as error:
        raise BadForm("member") from error
