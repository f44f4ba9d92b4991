"""Notifications' decisions: which mails, to whom, about whom."""

from datetime import timedelta
from hashlib import sha256

from contracts.fields import Language
from contracts.groups import MemberAccountCreated
from contracts.message import group_of
from contracts.notifications import PasswordLinkIssued
from contracts.provisioning import PersonRecorded
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.domain import Mail, MailState, Person, Template
from tests.unit.given import NOW, given, id_of, incoming

ADA, NEW = id_of("ada"), id_of("new")
CREATED = incoming(
    MemberAccountCreated(group_id=group_of(ADA), owner_id=ADA, member_id=NEW, plan="send_only", price_units=20)
)
TOKEN = (b"\x07" * 32).hex()
EXPIRY = NOW + timedelta(days=7)
WELCOME = Mail(
    CREATED.derive(f"mail/welcome/{NEW}"),
    Template.WELCOME,
    NEW,
    ADA,
    {"plan": "send_only", "token": TOKEN, "expires_at": EXPIRY.isoformat()},
    MailState.QUEUED,
    NOW,
    NOW,
)
RECEIPT = Mail(
    CREATED.derive(f"mail/receipt/{ADA}"),
    Template.RECEIPT,
    ADA,
    NEW,
    {"plan": "send_only", "price_units": 20},
    MailState.QUEUED,
    NOW,
    NOW,
)


def test_welcomes_the_member_and_gives_the_owner_a_receipt() -> None:
    scene = given(NOTIFICATIONS).when(CREATED)
    scene.then(PasswordLinkIssued(member_id=NEW, token_sha256=sha256(TOKEN.encode()).hexdigest(), expires_at=EXPIRY))
    scene.leaves(WELCOME, RECEIPT)


def test_tells_the_member_nothing_of_the_price() -> None:
    assert "price_units" not in WELCOME.params
    scene = given(NOTIFICATIONS).when(CREATED)
    (to_member,) = [row for row in scene.rows() if row.recipient_id == NEW]
    assert to_member.params.keys() == {"plan", "token", "expires_at"}


def test_the_links_token_is_in_the_mail_alone() -> None:
    scene = given(NOTIFICATIONS).when(CREATED)
    assert all(TOKEN not in repr(effect) for effect in scene.effects)


def test_learns_who_somebody_is_and_the_newest_word_counts() -> None:
    first = PersonRecorded(
        subscriber_id=ADA, email="ada@example.org", first_name="Ada", last_name="L.", language=Language.FR
    )
    newest = first.model_copy(update={"language": Language.EN, "fax_number": "+331"})
    scene = given(NOTIFICATIONS).when(first).then().leaves(Person(ADA, "ada@example.org", "Ada", "L.", "fr", None))
    scene.when(newest).then().leaves(Person(ADA, "ada@example.org", "Ada", "L.", "en", "+331"))
