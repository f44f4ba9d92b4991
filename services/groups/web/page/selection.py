"""Members whom somebody has chosen: what the flows begin with that are about several of them.

Whom a search finds is looked up here, when it is needed: no browser holds ten thousand ticks. What was confirmed
carries a digest of who they were.
"""

from uuid import UUID

from starlette.responses import Response

from services.groups.web import members, queries
from services.groups.web.page import views
from services.groups.web.page.forms import BadForm, Form
from services.groups.web.page.visit import Answer, Visit

_TOO_MANY = 2**31
"""So many memberships nobody has had, nor would the database count them."""


async def chosen(visit: Visit) -> tuple[views.Choice, queries.Account]:
    """Return who is chosen among the members of today, and the owner's account. Raises `BadForm`."""
    owner_id, search = visit.caller.id, visit.search
    async with visit.context.reading() as connection:
        account = await queries.account(connection, owner_id)
        if is_all_found(visit):
            return views.Choice(await members.read_all(connection, owner_id, search.wanted), search), account
        if visit.form.one("all") and not visit.form.all("member"):  # without JavaScript: all that are shown
            return views.Choice((await views.members_page(connection, owner_id, search)).items), account
        return views.Choice(await members.read_some(connection, owner_id, ticked(visit.form))), account


def is_all_found(visit: Visit) -> bool:
    """Return whether all are chosen whom the search finds, on whatever page."""
    return bool(visit.form.one("matching")) and not visit.search.invited


def has_changed(visit: Visit, choice: views.Choice) -> bool:
    """Return whether a search finds others now than those that were confirmed."""
    return choice.search is not None and visit.form.one("digest") != choice.digest


async def refused(visit: Visit, message: str) -> Response:
    """Say, beside the members, why nothing can be done with them."""
    return await visit.show(Answer("members-answer", "answers/refused.html", {"why": visit.speech.say(message)}))


def ticked(form: Form) -> list[tuple[UUID, int]]:
    """Read the checkboxes: each member's id, and which of their memberships it is. Raises `BadForm`."""
    try:
        found = [each.partition(".") for each in form.all("member")]
        chosen = [(UUID(id_), int(epoch)) for id_, _, epoch in found]
    except ValueError as error:
        raise BadForm("member") from error
    if any(not 0 <= epoch < _TOO_MANY for _, epoch in chosen):
        raise BadForm("member")
    return chosen
