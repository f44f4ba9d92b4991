"""Members with few units: below how many the owner calls them low, and whether they are mailed about it."""

from starlette.responses import Response

from services.groups.web import queries
from services.groups.web.page.flows import commands
from services.groups.web.page.forms import whole_number
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_


async def form(visit: Visit) -> Response:
    """Show the form, with what the owner has said."""
    async with visit.context.reading() as connection:
        said = await queries.low_balance(connection, visit.caller.id)
    below = "" if said.below_units is None else str(said.below_units)
    return await visit.show(Answer("low", "low_balance.html", {"below": below, "mail": said.mail, "error": ""}))


async def set_low_balance(visit: Visit) -> Response:
    """Say what is low, or with an empty field that nobody is."""
    below, mail = visit.form.one("below"), bool(visit.form.one("mail"))
    units = whole_number(below) if below else None
    wrong = ""
    if below and units is None:
        wrong = N_("Give a whole number of POP units, 1 or more.")
    elif mail and units is None:
        wrong = N_("Say below how many POP units you want to be mailed.")
    if wrong:
        values = {"below": below, "mail": mail, "error": visit.speech.say(wrong)}
        return await visit.show(Answer("low", "low_balance.html", values))
    return await commands.post(visit, "set-low-balance", {"below_units": units, "mail": mail})
