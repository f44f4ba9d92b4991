"""From a mail's facts to its bytes: a subject, a text and an HTML part, in the recipient's language."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jinja2
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal

from services.notifications.domain import Mail, Person, Template
from services.notifications.settings import NotificationsSettings
from services.notifications.sources import source

PLAN_NAMES = {
    "fr": {"send_receive": "Envoyez et Recevez", "send_only": "Envoi Seul"},
    "en": {"send_receive": "Send and Receive", "send_only": "Send Only"},
}
"""Plans as people know them. One without a name here is called by its own."""


def render(mail: Mail, to: Person, about: Person | None, settings: NotificationsSettings) -> bytes:
    """Make the bytes of a mail to somebody, `about` somebody: None if that is nobody, or nobody any more.

    The same arguments give the same bytes. Header injection can't happen: names hold no line breaks (the contracts
    refuse them), and every header goes through `EmailMessage` and `Address`.
    """
    parts = _parts(mail.template, to.language)
    facts = _facts(mail, to, about, parts.nobody, settings)
    local_part, domain = to.email.rsplit("@", 1)
    sender, sender_domain = settings.mail_from.rsplit("@", 1)
    # A mailbox name beyond ASCII can be written in no other way (RFC 6532); all others are, as any server reads them.
    message = EmailMessage(policy=SMTP if local_part.isascii() else SMTPUTF8)
    message["From"] = Address("Popfax", sender, sender_domain)
    message["To"] = Address(f"{to.first_name} {to.last_name}", local_part, domain)
    message["Subject"] = parts.subject.render(facts)
    message["Date"] = format_datetime(mail.made_at)
    message["Message-ID"] = f"<{mail.id}@{sender_domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(parts.text.render(facts).strip() + "\n")
    message.add_alternative(parts.html.render(facts), subtype="html")
    message.set_boundary(f"popfax-{mail.id.hex}")  # not a random one: the same mail has the same bytes
    return message.as_bytes()


def _facts(
    mail: Mail, to: Person, about: Person | None, nobody: str, settings: NotificationsSettings
) -> dict[str, Any]:
    """Give what a template may speak of: the mail's parameters, and what we know of the people.

    `About` is `about` at the beginning of a sentence: they differ when it is somebody whose name nobody knows any more.
    """
    facts = {
        **mail.params,
        "first_name": to.first_name,
        "fax_number": to.fax_number,
        "link": _link(mail, settings),
    }
    if about is not None:
        name = f"{about.first_name} {about.last_name}"
        return facts | {"about": name, "About": name, "about_email": about.email}
    return facts | {"about": nobody, "About": nobody[:1].upper() + nobody[1:], "about_email": None, "group_name": None}


def _link(mail: Mail, settings: NotificationsSettings) -> str | None:
    if mail.template is Template.WELCOME:
        return f"{settings.password_link}?{urlencode({'token': mail.params['token']})}"
    if mail.template is Template.INVITATION:
        query = urlencode({"id": mail.params["invitation_id"], "token": mail.params["token"]})
        return f"{settings.invitation_link}?{query}"
    return None


@dataclass(frozen=True, slots=True)
class _Parts:
    subject: jinja2.Template
    text: jinja2.Template
    html: jinja2.Template
    nobody: str


@cache
def _parts(template: Template, language: str) -> _Parts:
    """Compile a mail's source, once."""
    found = source(template, language)
    plain, html = _environment(language, False), _environment(language, True)
    return _Parts(
        plain.from_string(found.subject), plain.from_string(found.text), html.from_string(found.html), found.nobody
    )


def _environment(language: str, escapes: bool) -> jinja2.Environment:
    made = jinja2.Environment(autoescape=escapes, undefined=jinja2.StrictUndefined)  # noqa: S701 - text
    made.filters.update(_filters(language))
    return made


def _filters(language: str) -> dict[str, Callable[..., str]]:
    """Give what a template says things with: as people of that language write them."""
    locale = Locale(language)

    def number(value: int) -> str:
        return format_decimal(value, locale=locale)

    def counted(value: int, one: str, many: str) -> str:
        return f"{number(value)}\u00a0{one if locale.plural_form(value) == 'one' else many}"

    def day(moment: str) -> str:
        return str(format_date(datetime.fromisoformat(moment), format="long", locale=locale))

    def plan_name(plan: str) -> str:
        return PLAN_NAMES[language].get(plan, plan)

    return {
        "number": number,
        "counted": counted,
        "units": lambda value: f"{number(value)}\u00a0POP",
        "day": day,
        "plan_name": plan_name,
    }
