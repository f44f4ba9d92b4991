"""Every mail as its reader would see it: made-up data, real templates, written to files."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid5

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    InvitationAccepted,
    InvitationDeclined,
    InvitationExpired,
    MemberAccountCreated,
    MemberLeft,
    MemberPaidFor,
    StandingOrderPaused,
    TransferredLeg,
    UnitsReceived,
    UnitsTransferred,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MAX_NAMED, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import AccountExpired, AccountExpiring, AccountExtended
from services.notifications.domain import Mail, MailState, Person, Template
from services.notifications.letters import Letter, letters
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings

_IDS = UUID("6a0e7f52-19c3-5b7d-8f34-0c5d2e9b4a71")
OWNER, MEMBER, BOB, YUSUF, LONG, NOBODY = (
    uuid5(_IDS, name) for name in ("owner", "member", "bob", "yusuf", "long", "nobody")
)
GROUP, INVITATION, TRANSFER = group_of(OWNER), uuid5(_IDS, "invitation"), uuid5(_IDS, "transfer")
NOW = datetime(2031, 2, 24, 9, 30, tzinfo=UTC)
SOON = NOW + timedelta(days=7)
TOKEN = "5e" * 32

SOME_MORE = tuple(uuid5(_IDS, str(number)) for number in range(60))

PEOPLE: Mapping[UUID, Person] = {
    person.id: person
    for person in (
        Person(OWNER, "anne-sophie@lefevre.example", "Anne-Sophie", "Lefèvre-Desrosières", "fr", "+33170000001"),
        Person(MEMBER, "jean-chretien@etude-notariale.example", "Jean-Chrétien", "Ölafsson", "fr", "+33170000002"),
        Person(BOB, "bob@co.example", "<b>Bob", "& Co</b>", "fr", None),
        Person(YUSUF, "yusuf@co.example", "يوسف", "الحكيم (2)", "en", None),
        Person(LONG, f"{'x' * 64}@{'y' * 60}.example", "W" * 100, "i" * 100, "en", None),
        *(Person(id_, f"{n}@co.example", f"Élodie {n}", "Martin", "fr", None) for n, id_ in enumerate(SOME_MORE, 1)),
    )
}
"""Names that are long, accented, like markup, or right to left. `NOBODY` is an erased person."""


NAMED = (MEMBER, BOB, YUSUF, LONG, NOBODY)


def _some(count: int) -> list[UUID]:
    """Return ids of so many people: the odd ones first."""
    return [*NAMED, *SOME_MORE][:count]


def _transferred(mode: str, *amounts: int) -> Message:
    members = _some(len(amounts))
    legs = [TransferredLeg(member_id=id_, amount_units=units) for id_, units in zip(members, amounts, strict=True)]
    return UnitsTransferred.model_validate(
        {
            "group_id": GROUP,
            "owner_id": OWNER,
            "transfer_id": TRANSFER,
            "mode": mode,
            "amount_units": max(amounts),
            "legs": legs,
            "total_units": sum(amounts),
        }
    )


def _invitation(owner: UUID, group_name: str | None) -> Message:
    return SendInvitation(
        invitation_id=INVITATION,
        round=1,
        recipient_id=MEMBER,
        owner_id=owner,
        group_name=group_name,
        token=TOKEN,
        expires_at=SOON,
    )


def _created(member: UUID, plan: str) -> Message:
    return MemberAccountCreated(
        group_id=GROUP, owner_id=OWNER, member_id=member, plan=plan, price_units=1200, request_id=TRANSFER
    )


def _left(via: str, owner: UUID = OWNER, member: UUID = MEMBER) -> Message:
    fields = {"group_id": GROUP, "owner_id": owner, "member_id": member, "epoch": 1, "via": via}
    return MemberLeft.model_validate(fields)


def _low(named: int, more: int) -> Message:
    return SendMembersLow(
        group_id=GROUP, owner_id=OWNER, day=NOW.date(), below_units=20, members=tuple(_some(named)), more=more
    )


def _paid_for(action: str, expires_at: datetime | None) -> Message:
    return MemberPaidFor(
        group_id=GROUP,
        owner_id=OWNER,
        member_id=MEMBER,
        payment_id=TRANSFER,
        action=action,
        price_units=1200,
        expires_at=expires_at,
    )


def _paused(reason: str) -> Message:
    return StandingOrderPaused(
        group_id=GROUP, owner_id=OWNER, member_id=MEMBER, order_id=TRANSFER, reason=reason, paused_at=NOW
    )


_ANSWERED = {"group_id": GROUP, "owner_id": OWNER, "invitation_id": INVITATION}

CAUSES: Sequence[tuple[str, Message]] = (
    ("", _created(MEMBER, "send_receive")),
    ("markup", _created(BOB, "send_only")),
    ("long", _created(LONG, "send_only")),
    ("", _invitation(OWNER, "Étude <Lefèvre & Associés>")),
    ("unnamed", _invitation(OWNER, None)),
    ("right_to_left", _invitation(YUSUF, "مكتب 24/7")),
    ("nobody", _invitation(NOBODY, "Étude Lefèvre")),
    ("", InvitationAccepted(**_ANSWERED, subscriber_id=BOB)),
    ("", InvitationDeclined(**_ANSWERED, subscriber_id=MEMBER)),
    ("nobody", InvitationDeclined(**_ANSWERED, subscriber_id=NOBODY)),
    ("", InvitationExpired(**_ANSWERED, subscriber_id=MEMBER)),
    ("", UnitsReceived(group_id=GROUP, owner_id=OWNER, member_id=MEMBER, transfer_id=TRANSFER, amount_units=12500)),
    ("amount", _transferred("amount", 50, 50, 50)),
    ("one", _transferred("amount", 20)),
    ("many", _transferred("amount", *[5] * 62)),
    ("topped_up", _transferred("top_up_to", 1000, 250, 0, 0)),
    ("", _low(3, 0)),
    ("one", _low(1, 0)),
    ("many", _low(MAX_NAMED, 112)),
    ("short", _paused("units_short")),
    ("expired", _paused("account_expired")),
    ("detached", _left("detached")),
    ("left", _left("left")),
    ("account_closed", _left("account_closed", member=NOBODY)),
    ("group_closed", _left("group_closed", owner=NOBODY)),
    ("7", AccountExpiring(account_id=MEMBER, days=7, expires_at=SOON)),
    ("1", AccountExpiring(account_id=MEMBER, days=1, expires_at=NOW + timedelta(days=1))),
    ("", AccountExpired(account_id=MEMBER, expires_at=NOW)),
    ("units", AccountExtended(request_id=TRANSFER, account_id=MEMBER, expires_at=SOON, price_units=1200)),
    ("money", AccountExtended(request_id=TRANSFER, account_id=MEMBER, expires_at=SOON)),
    ("extension", _paid_for("extension", SOON)),
    ("options_pack", _paid_for("options_pack", None)),
)
"""The events that cause mails, each with a suffix that tells two causes of one mail apart."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A mail as it would be sent, with its recipient and the person whom it is about."""

    name: str
    mail: Mail
    to: Person
    about: Person | None

    def message(self, settings: NotificationsSettings) -> EmailMessage:
        """Render it, and read it as a mail client would."""
        made = message_from_bytes(render(self.mail, self.to, self.about, settings, PEOPLE), policy=default)
        assert isinstance(made, EmailMessage)
        return made


def samples(language: Language) -> Iterator[Sample]:
    """Yield every mail, in each of its variants."""
    for form, cause in CAUSES:
        for letter in letters(cause):
            name = ".".join(filter(None, (letter.template, form, language)))
            to = replace(PEOPLE[letter.recipient_id], language=language.value)
            about = PEOPLE.get(letter.about_id) if letter.about_id else None
            yield Sample(name, _mail(letter), to, about)


def _mail(letter: Letter) -> Mail:
    secret = {"token": TOKEN, "expires_at": SOON.isoformat()} if letter.template is Template.WELCOME else {}
    params = {**letter.params, **secret}
    return Mail(letter.id, letter.template, letter.recipient_id, letter.about_id, params, MailState.QUEUED, NOW, NOW)


WIDTHS = {"desktop": (800, 760), "phone": (390, 860)}
"""The pictures' widths and heights, in pixels."""


def write_previews(directory: Path, settings: NotificationsSettings, program: str | None) -> list[Path]:
    """Write every mail in both languages as HTML, text and, given a browser, pictures; and an index of them."""
    directory.mkdir(parents=True, exist_ok=True)
    pages: list[Path] = []
    rows: list[str] = []
    for sample in (each for language in Language for each in samples(language)):
        message = sample.message(settings)
        html, text = (message.get_body((kind,)) for kind in ("html", "plain"))
        assert html is not None
        assert text is not None
        page = directory / f"{sample.name}.html"
        page.write_text(html.get_content(), encoding="utf-8")
        page.with_suffix(".txt").write_text(f"{message['subject']}\n\n{text.get_content()}", encoding="utf-8")
        pages.append(page)
        rows.append(_row(page.stem, message["subject"], program is not None))
    (directory / "index.html").write_text(_INDEX.format(rows="\n".join(rows)), encoding="utf-8")
    if program is not None:
        with ThreadPoolExecutor() as several:
            list(several.map(lambda page: _picture(program, page), pages))
    return pages


def _picture(program: str, page: Path) -> None:
    """Take a page's pictures. The page is in a frame, because a browser's window can't be as narrow as a phone's."""
    with TemporaryDirectory() as own:
        for name, (width, height) in WIDTHS.items():
            frame = Path(own) / f"{name}.html"
            frame.write_text(_FRAME.format(width=width, height=height, page=page.resolve().as_uri()), encoding="utf-8")
            subprocess.run(
                [
                    program,
                    "--headless",
                    "--no-sandbox",  # no sandbox in a container; the pages are our own and fetch nothing
                    "--disable-gpu",
                    "--hide-scrollbars",
                    f"--user-data-dir={own}/profile",
                    f"--window-size={width},{height}",
                    f"--screenshot={page.with_suffix('').resolve()}.{name}.png",
                    frame.as_uri(),
                ],
                check=True,
                capture_output=True,
                timeout=60,
            )


_FRAME = (
    '<!doctype html><body style="margin:0"><iframe src="{page}" width="{width}" height="{height}" style="border:0">'
    "</iframe></body>"
)
_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Popfax: mails</title>
<style>body{{font:16px system-ui,sans-serif;margin:2em}}
img{{height:360px;border:1px solid #ddd}}td{{padding:.5em}}</style>
</head><body><h1>Mails</h1><table>
{rows}
</table></body></html>
"""


def _row(name: str, subject: str, pictures: bool) -> str:
    links = f'<a href="{name}.html">{name}</a><br>{escape(subject)}<br><a href="{name}.txt">text</a>'
    shown = "".join(
        f'<td><a href="{name}.{size}.png"><img src="{name}.{size}.png" alt="{name}, {size}"></a></td>'
        for size in WIDTHS
        if pictures
    )
    return f"<tr><td>{links}</td>{shown}</tr>"
