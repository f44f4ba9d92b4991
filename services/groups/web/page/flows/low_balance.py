"""Members with few units: below how many the owner calls them low, and whether they are mailed about it."""

from starlette.responses import Response

from services.groups.web import queries
from services.groups.web.page.amounts import NoAmount, read_amount
from services.groups.web.page.flows import commands
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_


async def form(visit: Visit) -> Response:
    """Show the form, with what the owner has said."""
    async with visit.context.reading() as connection:
        known = await queries.low_balance(connection, visit.caller.id)
    below = "" if known.below_units is None else str(known.below_units)
    return await visit.show(Answer("low", "low_balance.html", {"below": below, "mail": known.mail, "error": ""}))


async def said(visit: Visit) -> Response:
    """Show what the owner has said, in the form's place."""
    async with visit.context.reading() as connection:
        group = await queries.group_of_owner(connection, visit.caller.id)
    return await visit.show(Answer("low", "parts/low.html", {"group": group}))


async def set_low_balance(visit: Visit) -> Response:
    """Say what is low, or with an empty field that nobody is."""
    below, mail = visit.form.one("below"), bool(visit.form.one("mail"))
    try:
        if mail and not below:
            raise NoAmount(N_("Say below how many POP units you want to be mailed."))
        units = read_amount(below, visit.speech.language) if below else None
    except NoAmount as wrong:
        values = {"below": below, "mail": mail, "error": visit.speech.say(wrong.message)}
        return await visit.show(Answer("low", "low_balance.html", values))
    return await commands.post(visit, "set-low-balance", {"below_units": units, "mail": mail})
