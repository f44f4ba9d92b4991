"""The group's name."""

from pydantic import ValidationError
from starlette.responses import Response

from services.groups.commands import POSTABLE
from services.groups.web import queries
from services.groups.web.page.flows import commands
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import wrong_name
from services.groups.web.posting import command_of


async def form(visit: Visit) -> Response:
    """Show a form for the group's name."""
    async with visit.context.reading() as connection:
        group = await queries.group_of_owner(connection, visit.caller.id)
    typed = visit.form.some("name")
    values = {"name": typed.get("name", group.name), "error": ""}
    return await visit.show(Answer("title", "title_form.html", values, resumed_at="/name" if typed else ""))


async def title(visit: Visit) -> Response:
    """Show the group's name, as it is: nobody changes it any more."""
    async with visit.context.reading() as connection:
        group = await queries.group_of_owner(connection, visit.caller.id)
    return await visit.show(Answer("title", "parts/title.html", {"group": group, "oob": False}))


async def rename(visit: Visit) -> Response:
    """Rename the group."""
    name = visit.form.one("name")
    try:
        command_of(POSTABLE["rename-group"], {"name": name}, visit.caller.id)
    except ValidationError as invalid:
        error = visit.speech.say(wrong_name(invalid.errors()[0]["type"]))
        values = {"name": name, "error": error}
        return await visit.show(Answer("title", "title_form.html", values, resumed_at="/name"))
    return await commands.post(visit, "rename-group", {"name": name})
