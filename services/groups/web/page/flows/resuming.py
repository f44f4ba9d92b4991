"""Going on with what was begun: after a reload, in another language, or in another visit."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.groups.web.page import drafts
from services.groups.web.page.flows import creation, invitations, members, naming, several, transfers
from services.groups.web.page.forms import BadForm, Form
from services.groups.web.page.visit import Handler, Visit
from services.groups.web.page.words import N_
from services.groups.web.sessions import mark_of


async def _whole(visit: Visit) -> Response:
    """Show the whole page, with the members and the amount that were chosen."""
    response = await visit.show_page()
    drafts.forget(response, visit.request)
    return response


RESUMED: Mapping[str, Handler] = {
    "/name": naming.form,
    "/invite": invitations.form,
    "/invite/several/check": several.form,
    "/invite/several/send": several.form,
    "/create/plan": creation.choose_plan,
    "/create/person": creation.name_person,
    "/create/payment": creation.show_payment,
    "/create": creation.show_payment,
    "/members/confirm": members.confirm_detaching,
    "/members/detach": members.confirm_detaching,
    "/transfers/cost": _whole,
    "/transfers/confirm": transfers.confirm,
    "/transfers": transfers.confirm,
}
"""What shows again what a form was about, by where the form was to be sent. Nothing is done by that."""


async def page(visit: Visit) -> Response:
    """Show it all, with what the visitor was in the middle of."""
    draft = drafts.kept(visit.request)
    if draft is None:
        return await visit.show_page()
    if draft.mark == mark_of(visit.caller.id) and (handler := RESUMED.get(draft.path)):
        note = N_("Your visit had ended. You can go on here: nothing was lost, and nothing was sent.")
        with suppress(BadForm, HTTPException):  # a browser may keep whatever it likes
            said = visit.speech.say(note) if draft.is_interrupted else ""
            return await handler(replace(visit, form=Form(draft.fields), note=said))
    undone = N_("Your visit had ended: what you asked for last was not done.")
    is_told = draft.is_interrupted and draft.mark == mark_of(visit.caller.id)
    return await _whole(replace(visit, note=visit.speech.say(undone) if is_told else ""))


async def keep(visit: Visit) -> Response:
    """Keep what is being typed."""
    if (path := visit.form.one("at")) not in RESUMED:
        raise BadForm("at")
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    region = "title" if path == "/name" else "flow"
    drafts.keep(response, visit.request, drafts.of(mark_of(visit.caller.id), path, visit.form, region))
    return response
