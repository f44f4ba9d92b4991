"""From a mail's values to its bytes: a subject, a text and an HTML part, in the recipient's language."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Self
from unicodedata import bidirectional, combining, normalize
from urllib.parse import urlencode
from uuid import UUID

import jinja2
from babel import Locale
from babel.numbers import format_decimal
from markupsafe import Markup, escape

from services.chassis.dates import dates
from services.chassis.references import reference
from services.notifications.domain import Mail, Person, Template, named_in
from services.notifications.mime import Content, Mailbox, write
from services.notifications.settings import NotificationsSettings
from services.notifications.sources import source

PLAN_NAMES = {
    "fr": {"send_receive": "Envoyez et Recevez", "send_only": "Envoi Seul"},
    "en": {"send_receive": "Send and Receive", "send_only": "Send Only"},
}
"""Plans' names as people know them. A plan that is not listed here goes by its code."""

MEMBERS = {"fr": ("membre", "membres"), "en": ("member", "members")}

_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ISOLATES = "\u2068\u2069"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


class Name(str):
    """A person's name, isolated so that it can't change the direction of the sentence around it.

    In text it is put between U+2068 and U+2069, if anything in it is written right to left: software that does not know
    these characters shows a box, which most names are spared. In HTML it is a `<bdi>`. Names accepted under older rules
    may contain direction-changing characters; those are left out.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Self:
        """Make one from a stored name."""
        plain = _TURNING.sub("", name)
        turns = not plain.isascii() and any(bidirectional(character) in _RIGHT_TO_LEFT for character in plain)
        return super().__new__(cls, f"\u2068{plain}\u2069" if turns else plain)

    def __html__(self) -> str:
        """Return its HTML, for Jinja2."""
        return Markup(f"<bdi>{escape(str(self).strip(_ISOLATES))}</bdi>")  # noqa: S704 - escaped


def render(
    mail: Mail,
    to: Person,
    about: Person | None,
    settings: NotificationsSettings,
    people: Mapping[UUID, Person] = MappingProxyType({}),
) -> bytes:
    """Render a mail to somebody, `about` somebody: None if it is about nobody, or about an erased person.

    Whom it names besides is looked up in `people`: who is not there has no name in it. The same
    arguments give the same bytes. Raises `mime.Unsound` if these don't parse back as intended.
    """
    parts = _parts(mail.template, to.language)
    context = _context(mail, to, about, parts.nobody, settings)
    context["named"] = _named(mail, people, parts.nobody)
    domain = settings.mail_from.rpartition("@")[2]
    return write(
        Content(
            sender=Mailbox("Popfax", settings.mail_from),
            to=Mailbox(_full(to), to.email),
            subject=parts.subject.render(context),
            headers={
                "Date": format_datetime(mail.made_at),
                "Message-ID": f"<{mail.id}@{domain}>",
                "Auto-Submitted": "auto-generated",
            },
            text=parts.text.render(context).strip() + "\n",
            html=_in_ascii(parts.html.render(context).strip()) + "\n",
            boundary=f"popfax-{mail.id.hex}",
        )
    )


def _in_ascii(html: str) -> str:
    """Return HTML that says the same and needs no encoding on its way."""
    return html.encode("ascii", "xmlcharrefreplace").decode()


def _context(
    mail: Mail, to: Person, about: Person | None, nobody: str, settings: NotificationsSettings
) -> dict[str, Any]:
    """Return a template's variables: the mail's parameters, and what is known of the people.

    `About` is `about` at the beginning of a sentence: they differ for somebody whose name has been erased.
    """
    context = {
        **_WITHOUT,
        **mail.params,
        "first_name": Name(to.first_name),
        "full_name": Name(_full(to)),
        "made_at": mail.made_at.isoformat(),
        "fax_number": to.fax_number,
        "link": _link(mail, settings),
        "dates": dates(to.language, to.time_zone),
    }
    if mail.params.get("group_name"):
        context["group_name"] = Name(mail.params["group_name"])
    if about is not None:
        name = Name(_full(about))
        return context | {"about": name, "About": name, "about_email": Name(about.email)}
    return context | {
        "about": nobody,
        "About": nobody[:1].upper() + nobody[1:],
        "about_email": None,
        "group_name": None,
    }


def _named(mail: Mail, people: Mapping[UUID, Person], nobody: str) -> list[tuple[str, int | None]]:
    """Return those whom a mail names, by last name and first name, each with their units; the nameless come last."""
    known = [(people.get(id_), units) for id_, units in named_in(mail.params)]
    known.sort(key=lambda each: _listed(each[0]))
    somebody = nobody[:1].upper() + nobody[1:]
    return [(Name(_full(person)) if person else somebody, units) for person, units in known]


def _full(person: Person) -> str:
    return f"{person.first_name} {person.last_name}"


def _listed(person: Person | None) -> tuple[bool, str, str]:
    return (True, "", "") if person is None else (False, _plain(person.last_name), _plain(person.first_name))


def _plain(name: str) -> str:
    """Return a name as it is sorted on the page, too: without accents, in small letters, numbers by their value."""
    letters = "".join(each for each in normalize("NFD", name.casefold()) if not combining(each))
    return _NUMBER.sub(lambda number: number[0].zfill(_DIGITS), letters)


_NUMBER, _DIGITS = re.compile("[0-9]+"), 12


_WITHOUT = {"reference": None, "more": 0}
"""What mails that an earlier version wrote are without."""


def _link(mail: Mail, settings: NotificationsSettings) -> str | None:
    if mail.template is Template.WELCOME:
        return f"{settings.password_link}?{urlencode({'token': mail.params['token']})}"
    if mail.template is Template.INVITATION:
        query = urlencode({"id": mail.params["invitation_id"], "token": mail.params["token"]})
        return f"{settings.invitation_link}?{query}"
    if mail.template in _OF_OWNERS:
        return str(settings.group_link)
    return str(settings.account_link) if mail.template in _OF_ENDS else None


_OF_OWNERS = frozenset(
    {
        Template.RECEIPT,
        Template.INVITATION_ACCEPTED,
        Template.INVITATION_DECLINED,
        Template.INVITATION_EXPIRED,
        Template.TRANSFER_RECEIPT,
        Template.PAYING_RECEIPT,
        Template.MEMBER_LEFT,
        Template.MEMBERS_LOW,
        Template.ORDER_PAUSED,
    }
)
_OF_ENDS = frozenset({Template.EXPIRING, Template.EXPIRED})


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
    """Return the filters of a template, which format values as that language does."""
    locale = Locale(language)

    @lru_cache(maxsize=1024)
    def number(value: int) -> str:
        return format_decimal(value, locale=locale)

    def counted(value: int, one: str, many: str) -> str:
        return f"{number(value)}\u00a0{one if locale.plural_form(value) == 'one' else many}"

    def plan_name(plan: str) -> str:
        return PLAN_NAMES[language].get(plan, plan)

    return {
        "bare": str,  # a name's, without markup
        "number": number,
        "counted": counted,
        "units": lambda value: f"{number(value)}\u00a0POP",
        "day": _day,
        "moment": _moment,
        "members": lambda value: counted(value, *MEMBERS[language]),
        "plan_name": plan_name,
        "reference": lambda id_: reference(UUID(id_)),
    }


@jinja2.pass_context
def _day(context: jinja2.runtime.Context, moment: str) -> str:
    """Return the day of a moment, in the recipient's time zone."""
    return str(context["dates"].day(datetime.fromisoformat(moment)))


@jinja2.pass_context
def _moment(context: jinja2.runtime.Context, moment: str) -> str:
    """Return the day and the time of a moment, in the recipient's time zone."""
    return str(context["dates"].moment(datetime.fromisoformat(moment)))
