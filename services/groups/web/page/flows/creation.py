"""An account for a new member, in three steps: a plan, a person, the payment. Each form carries the steps before it."""

from collections.abc import Mapping

from pydantic import ValidationError
from starlette.responses import Response

from services.groups.commands import POSTABLE
from services.groups.web import queries
from services.groups.web.page.flows import commands
from services.groups.web.page.forms import CARRIED, Texts, whole_number
from services.groups.web.page.visit import Answer, Visit
from services.groups.web.page.words import WRONG_EMAIL, WRONG_LANGUAGE, wrong_name
from services.groups.web.posting import command_of


async def choose_plan(visit: Visit) -> Response:
    """Show the first step: which plan."""
    return await visit.show(await commands.plans(visit, visit.form.some(*CARRIED)))


async def name_person(visit: Visit) -> Response:
    """Show the second step: whom the account is for."""
    given = visit.form.some(*CARRIED)
    if not given.get("plan"):
        return await choose_plan(visit)
    return await _person_form(visit, given, Texts())


async def show_payment(visit: Visit) -> Response:
    """Show the third step: what it costs, and how that is paid."""
    given = visit.form.some(*CARRIED)
    async with visit.context.reading() as connection:
        on_sale = {each.plan: each for each in await queries.plans_on_sale(connection)}
        account = await queries.account(connection, visit.caller.id)
    if (plan := on_sale.get(given.get("plan", ""))) is None:
        return await choose_plan(visit)
    if errors := _errors(visit, given, plan.price_units):
        return await _person_form(visit, given, errors)
    values = {
        "given": Texts({**given, "price": str(plan.price_units)}),
        "plan": plan,
        "account": account,
        "platform": str(visit.context.settings.platform_url),
    }
    return await visit.show(Answer("flow", "flow/payment.html", values, resumed_at="/create/payment"))


async def create(visit: Visit) -> Response:
    """Ask for the account, and show how it comes into being."""
    given = visit.form.some(*CARRIED)
    price = whole_number(given.get("price", ""))
    if price is None or _errors(visit, given, price):
        return await show_payment(visit)
    return await commands.post(visit, "create-member-account", {**_person(given), "price_units": price})


async def _person_form(visit: Visit, given: Mapping[str, str], errors: Texts) -> Response:
    values = {"given": given, "errors": errors}
    return await visit.show(Answer("flow", "flow/person.html", values, resumed_at="/create/person"))


def _person(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "") for name in ("plan", "email", "first_name", "last_name", "language")}


def _errors(visit: Visit, given: Mapping[str, str], price_units: int) -> Texts:
    return wrong_fields(visit, _person(given), price_units)


def wrong_fields(visit: Visit, person: Mapping[str, str], price_units: int) -> Texts:
    """Return what is wrong with a person's details, by field."""
    fields = {**person, "price_units": price_units}
    try:
        command_of(POSTABLE["create-member-account"], fields, visit.caller.id)
    except ValidationError as error:
        found = {str(each["loc"][0]): each["type"] for each in error.errors()}
        return Texts({name: visit.speech.say(_WRONG.get(name) or wrong_name(kind)) for name, kind in found.items()})
    return Texts()


_WRONG = {"email": WRONG_EMAIL, "language": WRONG_LANGUAGE}
