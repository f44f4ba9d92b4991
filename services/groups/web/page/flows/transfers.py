"""Units for members: what a transfer would cost, a question before it is done, and the transfer."""

from starlette.responses import Response

from services.groups.web import members, queries
from services.groups.web.page import split
from services.groups.web.page.amounts import NoAmount, read_amount
from services.groups.web.page.flows import commands
from services.groups.web.page.forms import whole_number
from services.groups.web.page.selection import chosen, has_changed, is_all_found, refused, ticked
from services.groups.web.page.views import Quote
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import N_, NOBODY_CHOSEN


async def cost(visit: Visit) -> Response:
    """Say what a transfer would cost, while it is being put together."""
    quote, lacking = await (_counted(visit) if is_all_found(visit) else _quote(visit))
    return visit.render("cost.html", quote=quote, lacking=lacking)


async def confirm(visit: Visit) -> Response:
    """Show what a transfer costs and leaves, and ask once."""
    quote, lacking = await _quote(visit)
    if quote is None:
        return await refused(visit, lacking)
    return await _ask(visit, quote)


async def transfer(visit: Visit) -> Response:
    """Transfer units. If a search finds others than those who were confirmed, ask again."""
    mode, amount = _mode(visit), whole_number(visit.form.one("amount"))
    member_ids = [id_ for id_, _ in ticked(visit.form)]
    if is_all_found(visit) and amount is not None:
        choice, account = await chosen(visit)
        if has_changed(visit, choice):
            return await _ask(visit, Quote.of(mode, amount, choice, account.available_units), changed=True)
        member_ids = [each.member_id for each in choice.members]
    parts = [
        {"mode": mode, "amount_units": amount, "members": tuple(part)} for part in split.cut(sorted(set(member_ids)))
    ]
    return await commands.post_all(visit, "transfer-units", parts, len(member_ids))


async def _ask(visit: Visit, quote: Quote, changed: bool = False) -> Response:
    if not quote.members:
        return await refused(visit, NOBODY_CHOSEN)
    if not quote.cost:
        return await refused(visit, N_("Everybody you have chosen has as much already: nothing to transfer."))
    if quote.left < 0:
        return await refused(visit, N_("You do not have enough POP units for this. Nothing was taken."))
    values = {"quote": quote, "choice": quote.choice, "parts": len(split.cut(quote.choice.members)), "changed": changed}
    return await visit.show(Answer("members-answer", "confirm_transfer.html", values))


async def _quote(visit: Visit) -> tuple[Quote | None, str]:
    """Return what the transfer that the form asks for would cost, or what the form lacks."""
    choice, account = await chosen(visit)
    if not choice.members:
        return None, NOBODY_CHOSEN
    try:
        amount = _amount(visit)
    except NoAmount as error:
        return None, error.message
    return Quote.of(_mode(visit), amount, choice, account.available_units), ""


async def _counted(visit: Visit) -> tuple[Quote | None, str]:
    """Return the same for all whom the search finds, without reading who they are."""
    try:
        amount = _amount(visit)
    except NoAmount as error:
        return None, error.message
    async with visit.context.reading() as connection:
        account = await queries.account(connection, visit.caller.id)
        tally = await members.tally(connection, visit.caller.id, visit.search.wanted, amount)
    return Quote.counted(_mode(visit), amount, tally, account.available_units), ""


def _amount(visit: Visit) -> int:
    return read_amount(visit.form.one("amount"), visit.speech.language)


def _mode(visit: Visit) -> str:
    return "top_up_to" if visit.form.one("mode") == "top_up_to" else "amount"
