"""What people call themselves, their groups and their mailboxes never turns the page's own words around.

Every template is rendered with names that are written from right to left. A new one is found by itself; what it needs
beside the rest is to be added to `context`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import product
from typing import Any
from uuid import uuid4

import pytest

from services.groups.domain import AccountState, CommandState, InvitationState, Kind, OrderKind, OrderState
from services.groups.web import orders, queries
from services.groups.web.lines import HistoryLine
from services.groups.web.lists import CommandList, ListHead
from services.groups.web.lists import Line as ListLine
from services.groups.web.members import Wanted
from services.groups.web.page.asked import Asked
from services.groups.web.page.flows.books import Statement
from services.groups.web.page.flows.payments import Bill
from services.groups.web.page.forms import Texts
from services.groups.web.page.pasted import Person
from services.groups.web.page.search import Search
from services.groups.web.page.speech import HERE, LANGUAGES, speech
from services.groups.web.page.split import Progress
from services.groups.web.page.views import (
    Choice,
    HistoryView,
    Line,
    MembersView,
    OrdersView,
    Quote,
    Shown,
    Visitor,
    rows_of,
)
from services.groups.web.page.words import ENDED_INVITATIONS, NO_MARK, STEPS
from services.groups.web.payments import Offer
from services.groups.web.people import KnownMember

FIRST, LAST, GROUP, EMAIL = "שירה", "בן־דוד", "משפחת לוי", "דוד@example.com"
FULL = f"{FIRST} {LAST}"
OUTSIDE = (FULL, GROUP, EMAIL, FIRST, LAST, FIRST[0] + LAST[0])
TEMPLATES = sorted(str(path.relative_to(HERE / "templates")) for path in (HERE / "templates").rglob("*.html"))
NOW = datetime(2031, 2, 24, 22, 5, tzinfo=UTC)


def member() -> queries.Member:
    return queries.Member(
        member_id=uuid4(),
        first_name=FIRST,
        last_name=LAST,
        email=EMAIL,
        state=AccountState.EXPIRED,
        expires_at=NOW,
        available_units=20,
        epoch=1,
        joined_at=NOW,
    )


def group(members: tuple[queries.Member, ...]) -> queries.OwnGroup:
    invitation = queries.PendingInvitation(invitation_id=uuid4(), email=EMAIL, made_at=NOW, expires_at=NOW)
    return queries.OwnGroup(
        group_id=uuid4(),
        name=GROUP,
        renamed=True,
        closed=False,
        account=queries.Account(state=AccountState.EXPIRED, expires_at=NOW, available_units=7),
        low_balance=queries.LowBalance(below_units=30, mail=True),
        members_total=len(members),
        invitations=(invitation,),
    )


def joined(name: str) -> queries.JoinedGroup:
    return queries.JoinedGroup(group_id=uuid4(), group_name=name, owner_name=FULL, epoch=1, joined_at=NOW)


def received(name: str) -> queries.ReceivedInvitation:
    return queries.ReceivedInvitation(
        invitation_id=uuid4(), group_name=name, owner_name=FULL, made_at=NOW, expires_at=NOW
    )


def line(kind: Kind, outcome: str) -> Line:
    made = HistoryLine(
        id=uuid4(),
        kind=kind,
        at=NOW,
        by="owner",
        reference_id=uuid4(),
        member_id=uuid4(),
        member_name=FULL,
        member_email=EMAIL,
        units=20,
        outcome=outcome,
        code="units_short" if outcome == "refused" else None,
        ended_at=NOW,
    )
    return Line(made, EMAIL if kind is Kind.INVITATION else FULL, NO_MARK)


def context(language: str, is_live: bool, oob: bool, state: CommandState) -> dict[str, Any]:
    """All that any template speaks of."""
    members = (member(), member())
    own = group(members)
    lines = tuple(line(kind, outcome) for kind in Kind for outcome in ("created", "refused"))
    history = HistoryView(Asked(), lines, "next")
    known = KnownMember(
        member_id=uuid4(),
        is_member=True,
        name=FULL,
        email=EMAIL,
        state=AccountState.ACTIVE,
        expires_at=NOW,
        available_units=3,
        epoch=1,
        joined_at=NOW,
        ended_at=None,
    )
    given = Texts(email=EMAIL, plan="send_only", price="5", first_name=FIRST, last_name=LAST, language="fr", name=GROUP)
    command = queries.Command(
        id=uuid4(),
        type="create-member-account",
        state=state,
        code="units_short" if state is CommandState.REFUSED else None,
        step=None,
        result=None,
        asked_at=NOW,
        ended_at=None,
    )
    plan = queries.PlanOnSale(plan="send_only", price_units=5, validity_months=12)
    search = Search(Wanted(search=FULL), invited=oob)
    rows = tuple(rows_of(members, speech(language), 30))
    ordered = OrdersView(2, {rows[0].id: OrderState.PAUSED, rows[1].id: OrderState.ACTIVE})
    listed = MembersView(search, rows, 60, 100, ordered, own.invitations, asked=search.address())
    choice = Choice(members, search if is_live else None)
    offer = Offer(uuid4(), 1, FULL, NOW, NOW, 5)
    return {
        "proof": "proof",
        "once": lambda: "once",
        "is_live": is_live,
        "oob": oob,
        "shown": Shown(
            visitor=Visitor(FULL, language),
            group=own,
            members=listed,
            received=(received(GROUP), received("")),
            joined=(joined(GROUP), joined("")),
            history=history,
            seen="seen",
        ),
        "regions": Texts(),
        "group": own,
        "history": history,
        "member": known,
        "found": (known,),
        "sought": EMAIL,
        "asked": Asked(member_id=known.member_id),
        "statement": Statement(NOW.date(), NOW.date(), lines, False),
        "owner": Visitor(FULL, language),
        "group_name": GROUP,
        "zone": "Europe/Paris",
        "now": NOW,
        "most": 2000,
        "given": given,
        "name": GROUP,
        "email": EMAIL,
        "sent_to": EMAIL,
        "error": "error",
        "below": "20",
        "mail": True,
        "errors": Texts(first_name="error", email="error"),
        "plans": (plan,),
        "plan": plan,
        "account": own.account,
        "platform": "https://www.popfax.example",
        "account_page": "https://www.popfax.example",
        "bill": Bill("extension", (offer, replace(offer, code="no_plan")), own.account),
        "paid": ((FULL, command), ("", command)),
        "done": 1,
        "list_id": uuid4(),
        "command": command,
        "region": "title",
        "pending": "pending",
        "is_slow": True,
        "steps": STEPS,
        "behind": 1,
        "at": 1,
        "members": listed,
        "members_named": members,
        "named": 1500,
        "choice": choice,
        "changed": True,
        "parts": 2,
        "quote": Quote.of("top_up_to" if oob else "amount", 1, choice, 7),
        "typed": Texts(amount="20", mode="amount"),
        "whole_id": uuid4(),
        "progress": Progress(
            type="transfer-units",
            parts=2,
            done=1,
            refused=0 if state is CommandState.PENDING else 1,
            members_done=1000,
            members_refused=500,
            units=20_000,
            codes=("units_short",),
            asked_at=NOW,
        ),
        "lacking": "",
        "said": "said",
        "why": "why",
        "draft": None,
        "note": "note",
        "here": Visitor(FULL, language),
        "there": Visitor(f"{LAST} {FIRST}", language),
        "token": "token",
        **several(language, state, command),
        **standing_orders(state),
        "status": 404,
        "message": "message",
    }


def standing_orders(state: CommandState) -> dict[str, Any]:
    """What the templates speak of that are about standing orders."""
    is_paused = state is CommandState.REFUSED
    made = tuple(
        orders.Order(
            order_id=uuid4(),
            member_id=uuid4(),
            first_name=FIRST,
            last_name=LAST,
            email=EMAIL,
            state=OrderState.PAUSED if is_paused else OrderState.ACTIVE,
            code="units_short" if is_paused else None,
            kind=kind,
            threshold_units=5,
            target_units=9,
            monthly_bound_units=20,
            amount_units=7,
            set_at=NOW,
            month=NOW.date(),
            month_units=20,
            next_month=NOW.date(),
        )
        for kind in OrderKind
    )
    return {
        "orders": made,
        "order": made[0],
        "replaced": 1,
        "page_number": 2,
        "month": NOW.date(),
        "next_month": NOW.date(),
        "news": ("said", "good"),
    }


def several(language: str, state: CommandState, command: queries.Command) -> dict[str, Any]:
    """What the templates speak of that are about several people at once, and about an invitation's link."""
    about = {"email": EMAIL, "first_name": FIRST, "last_name": LAST}
    sent = CommandList(uuid4(), "invite-by-email", NOW, (ListLine(0, about, command),))
    state_of_invitation = InvitationState.PENDING if state is CommandState.PENDING else InvitationState.ACCEPTED
    return {
        "lines": f"{FIRST};{LAST};{EMAIL}",
        "chosen": EMAIL,
        "judged": [(Person(EMAIL, FIRST, LAST), NO_MARK), (Person("", FIRST, LAST), NO_MARK)],
        "ready": 1,
        "most": 100,
        "left": 5,
        "has_more": True,
        "recent": [ListHead(uuid4(), "invite-by-email", NOW, 2)],
        "list": sent,
        "marked": [(sent.lines[0], NO_MARK)],
        "unknown": 1,
        "list_id": sent.id,
        "people": [(0, EMAIL, about)],
        "picked": {"0"},
        "wanted_language": language,
        "wrong": Texts({"first_name.0": "wrong"}),
        "holders": [(0, about)],
        "cost": 120,
        "found": queries.LinkedInvitation(
            invitation_id=uuid4(),
            subscriber_id=uuid4(),
            state=state_of_invitation,
            token_hash=b"",
            expires_at=NOW,
            group_name=GROUP,
            owner_name=FULL,
            language=None,
            time_zone=None,
        ),
        "is_known": language == "fr",
        "is_other": state is CommandState.REFUSED,
        "why_ended": ENDED_INVITATIONS.get(state_of_invitation),
        "then": "/invitation",
        "log_in": "https://www.popfax.example",
    }


GROUP_OF_OTHERS = {"confirm_leave.html"}
"""Their `group` is somebody else's, in which the visitor is a member."""


def renderings(template: str) -> Iterator[str]:
    """The template as it comes out, in both languages, for htmx and without, whatever the command's state."""
    for language, is_live, oob, state in product(LANGUAGES, (True, False), (True, False), CommandState):
        made = context(language, is_live, oob, state)
        if template in GROUP_OF_OTHERS:
            made["group"] = joined(GROUP)
        yield speech(language).render(template, **made)


class Reader(HTMLParser):
    """Finds names that stand among other words without isolation."""

    VOID = frozenset({"input", "meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.names = 0
        self._open: list[tuple[str, bool]] = []
        self._isolated = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        by_itself = tag == "bdi" or given.get("dir") == "auto"
        for name, value in attributes:
            if not has_name(value or "") or is_between_isolates(value or ""):
                continue
            may_hold = tag == "input" and name == "value" and (by_itself or given.get("type") == "hidden")
            self.names += 1
            if not may_hold:
                self.found.append(f"<{tag} {name}={value!r}>")
        if tag not in self.VOID:
            self._open.append((tag, by_itself))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, text: str) -> None:
        if not has_name(text):
            return
        self.names += 1
        tags = [tag for tag, _ in self._open]
        if any(by_itself for _, by_itself in self._open):
            if has_words(text):
                self.found.append(f"other words isolated with a name: {text.strip()!r}")
        elif "title" not in tags or not is_between_isolates(text):
            self.found.append(f"<{tags[-1] if tags else ''}> {text.strip()!r}")


def has_name(text: str) -> bool:
    return re.search(r"[\u0590-\u05ff]", text) is not None


def has_words(text: str) -> bool:
    for name in OUTSIDE:
        text = text.replace(name, "")
    return re.search(r"\w", text) is not None


def is_between_isolates(text: str) -> bool:
    return not has_name(re.sub("\u2068[^\u2069]*\u2069", "", text))


@pytest.mark.parametrize("template", TEMPLATES)
def test_names_are_isolated(template: str) -> None:
    assert [found for html in renderings(template) for found in Reader(html).found] == []


def test_names_are_there_to_be_isolated() -> None:
    """A page that shows none would show nothing of how it shows them."""
    seen = {template for template in TEMPLATES if any(Reader(html).names for html in renderings(template))}
    assert set(TEMPLATES) - seen == {
        "confirm.html",
        "cost.html",
        "failure.html",
        "frame.html",
        "layout.html",
        "low_balance.html",
        "login.html",
        "macros.html",
        "note.html",
        "parts/low.html",
        "toast.html",
        "transfer.html",
        "wait.html",
        "answers/done.html",
        "answers/refused.html",
        "answers/slow.html",
        "answers/parts.html",
        "flow/steps.html",
        "parts/notice.html",
        "parts/pay_buttons.html",
        "parts/transfer_button.html",
        "parts/search_fields.html",
    }


@pytest.mark.parametrize(
    "html",
    [
        f"<p>Invitation of {FULL}</p>",
        f"<p dir='auto'>Invitation of {FULL}</p>",
        f"<bdi>{FULL} joined</bdi>",
        f"<title>{GROUP} · Popfax</title>",
        f"<bdi></bdi><p>{FULL}</p>",
        f"<button aria-label='Withdraw {EMAIL}'></button>",
        f"<input value='{GROUP}'>",
    ],
)
def test_a_name_without_isolation_is_found(html: str) -> None:
    assert len(Reader(html).found) == 1


@pytest.mark.parametrize(
    "html",
    [
        f"<p>Invitation of <bdi>{FULL}</bdi></p>",
        f"<h1 dir='auto'>{GROUP}</h1>",
        f"<title>\u2068{GROUP}\u2069 · Popfax</title>",
        f"<input dir='auto' value='{GROUP}'><input type='hidden' value='{GROUP}'>",
        "<p>Nobody</p>",
    ],
)
def test_a_name_with_isolation_is_left_alone(html: str) -> None:
    assert Reader(html).found == []
