"""Units for members: what a transfer would cost, a question before it is done, and the transfer."""

from starlette.responses import Response

from services.groups.web.page.flows import commands
from services.groups.web.page.forms import whole_number
from services.groups.web.page.selection import chosen, refused, ticked
from services.groups.web.page.views import Quote
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_, NOBODY_CHOSEN


async def cost(visit: Visit) -> Response:
    """Say what a transfer would cost, while it is being put together."""
    quote, lacking = await _quote(visit)
    return visit.render("cost.html", quote=quote, lacking=lacking)


async def confirm(visit: Visit) -> Response:
    """Show what a transfer costs and leaves, and ask once."""
    quote, lacking = await _quote(visit)
    if quote is None:
        return await refused(visit, lacking)
    if not quote.cost:
        return await refused(visit, N_("Everybody you have chosen has as much already: nothing to transfer."))
    if quote.left < 0:
        return await refused(visit, N_("You do not have enough POP units for this. Nothing was taken."))
    return await visit.show(Answer("members-answer", "confirm_transfer.html", {"quote": quote}))


async def transfer(visit: Visit) -> Response:
    """Transfer units."""
    fields = {
        "mode": visit.form.one("mode"),
        "amount_units": whole_number(visit.form.one("amount")),
        "members": tuple(id_ for id_, _ in ticked(visit.form)),
    }
    return await commands.post(visit, "transfer-units", fields)


async def _quote(visit: Visit) -> tuple[Quote | None, str]:
    """Return what the transfer that the form asks for would cost, or what the form lacks."""
    choice, account = await chosen(visit)
    amount = whole_number(visit.form.one("amount"))
    mode = "top_up_to" if visit.form.one("mode") == "top_up_to" else "amount"
    if not choice.members:
        return None, NOBODY_CHOSEN
    if amount is None:
        return None, N_("Give a whole number of POP units, 1 or more.")
    return Quote(mode, amount, choice, account.available_units), ""
