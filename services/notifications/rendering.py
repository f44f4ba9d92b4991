"""From a mail's facts to its bytes: a subject, a text and an HTML part, in the recipient's language."""

from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from babel.dates import format_date
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from services.notifications.settings import NotificationsSettings

PLAN_NAMES = {
    "fr": {"send_receive": "Envoyez et Recevez", "send_only": "Envoi Seul"},
    "en": {"send_receive": "Send and Receive", "send_only": "Send Only"},
}
"""Plans as people know them. One without a name here is called by its own."""


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("services.notifications"),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(row: Any, settings: NotificationsSettings) -> bytes:
    """Make the bytes of a mail from its row: the mail, its recipient, and whom it is about.

    The same row gives the same bytes. Header injection can't happen: names hold no line breaks (the contracts refuse
    them), and every header goes through `EmailMessage` and `Address`.
    """
    language = row.language
    facts = {
        "language": language,
        "first_name": row.first_name,
        "about_name": f"{row.about_first_name} {row.about_last_name}",
        "about_email": row.about_email,
        "fax_number": row.fax_number,
        "plan": PLAN_NAMES[language].get(row.params["plan"], row.params["plan"]),
        "price_units": row.params.get("price_units"),
        "link": _link(row.params, settings),
        "expires_on": _date(row.params.get("expires_at"), language),
    }
    subject, text = _render(f"{row.template}.{language}.txt", facts).split("\n", 1)
    local_part, domain = row.email.rsplit("@", 1)
    sender, sender_domain = settings.mail_from.rsplit("@", 1)
    # A mailbox name beyond ASCII can be written in no other way (RFC 6532); all others are, as any server reads them.
    message = EmailMessage(policy=SMTP if local_part.isascii() else SMTPUTF8)
    message["From"] = Address("Popfax", sender, sender_domain)
    message["To"] = Address(f"{row.first_name} {row.last_name}", local_part, domain)
    message["Subject"] = subject
    message["Date"] = format_datetime(row.made_at)
    message["Message-ID"] = f"<{row.id}@{sender_domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.strip() + "\n")
    message.add_alternative(_render(f"{row.template}.{language}.html", facts), subtype="html")
    message.set_boundary(f"popfax-{row.id.hex}")  # not a random one: the same mail has the same bytes
    return message.as_bytes()


def _render(name: str, facts: dict[str, Any]) -> str:
    return _templates().get_template(name).render(facts)


def _link(params: dict[str, Any], settings: NotificationsSettings) -> str | None:
    if "token" not in params:
        return None
    return f"{settings.password_link}?{urlencode({'token': params['token']})}"


def _date(moment: str | None, language: str) -> str | None:
    return moment and format_date(datetime.fromisoformat(moment), format="long", locale=language)
