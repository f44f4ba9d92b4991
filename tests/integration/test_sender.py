"""The mail sender against a real SMTP server and a real PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.mailsink import MailSink, read_mails
from deploy.local.stack import Stack
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, UnitsReceived
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailBounced, MailUndeliverable, SendInvitation, SendMembersLow
from popfax_contracts.provisioning import PersonErased, PersonRecorded
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.chassis.outages import Outages
from services.chassis.postgres import PostgresDatabase
from services.chassis.shell import FromKafka, Shell
from services.chassis.wakeups import Wakeup
from services.notifications import metrics, mime, sender
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.sender import send_due, send_mails
from services.notifications.settings import NotificationsSettings
from services.notifications.smtp import Envelope, MailServer, Reply
from services.notifications.tables import deliveries, mails
from tests.integration.recorder import Sent, eventually, execute, scratch_database

SOON_S = 0.05

HOLD_RECORDS = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE UPDATE ON deliveries FOR EACH ROW WHEN (NEW.in_flight_since IS NULL) EXECUTE FUNCTION hold();
"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
WAITING_FOR_ROWS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@dataclass
class Post:
    """A mail sink, a database of notifications, and the people of one test: addresses that no other test uses."""

    sink: MailSink
    engine: AsyncEngine
    settings: NotificationsSettings
    url: str
    mark: str = field(default_factory=lambda: uuid4().hex[:12])

    async def tell(self, *messages: Message) -> None:
        """Hand messages to notifications as its consumer would."""
        records = [
            Sent(
                message.TOPICS[0].name,
                0,
                0,
                message.key().encode(),
                message.to_json(),
                [("ce_id", str(uuid4()).encode()), ("ce_type", message.TYPE.encode())],
            )
            for message in messages
        ]
        await Shell(NOTIFICATIONS, PostgresDatabase(self.engine)).process(records, FromKafka())

    def person(self, name: str, language: Language = Language.EN, **more: Any) -> PersonRecorded:
        fields: dict[str, Any] = {
            "subscriber_id": uuid4(),
            "email": f"{name.lower()}.{self.mark}@example.com",
            "first_name": name,
            "last_name": "Martin",
            "language": language,
        }
        return PersonRecorded.model_validate(fields | more)

    async def create(self, owner: PersonRecorded, member: PersonRecorded) -> None:
        """An owner has created a member's account."""
        await self.tell(owner, member, created(owner, member))

    async def send_all(self) -> int:
        """Do rounds until nothing is due; return how many mails they took on."""
        taken = 0
        while found := await send_due(self.engine, self.settings):
            taken += found
        return taken

    def arrived(self, person: PersonRecorded) -> list[EmailMessage]:
        return [mail for mail in read_mails(self.sink.mails) if person.email in _addresses(mail)]

    def arrived_here(self) -> list[EmailMessage]:
        """All mails to the people of this test."""
        return [mail for mail in read_mails(self.sink.mails) if any(self.mark in a for a in _addresses(mail))]

    async def row(self, person: PersonRecorded) -> Any:
        """The one mail to this person, with its delivery."""
        query = sa.select(mails, deliveries).outerjoin(deliveries, deliveries.c.mail_id == mails.c.id)
        async with self.engine.connect() as connection:
            found = await connection.execute(query.where(mails.c.recipient_id == person.subscriber_id))
            return found.one()

    async def make_due(self) -> None:
        """Let the time pass that a mail is left to a sender that died."""
        async with self.engine.begin() as connection:
            await connection.execute(sa.update(mails).values(next_attempt_at=sa.func.now() - sa.text("interval '1 s'")))


def _addresses(mail: EmailMessage) -> list[str]:
    to: tuple[Address, ...] = mail["to"].addresses
    return [each.addr_spec for each in to]


def created(owner: PersonRecorded, member: PersonRecorded) -> MemberAccountCreated:
    return MemberAccountCreated(
        group_id=group_of(owner.subscriber_id),
        owner_id=owner.subscriber_id,
        member_id=member.subscriber_id,
        plan="send_receive",
        price_units=120,
    )


def settings(stack: Stack, url: str, **more: Any) -> NotificationsSettings:
    given = {
        "kafka_bootstrap": stack.kafka.bootstrap,
        "kafka_username": "notifications",
        "kafka_password": "none needed",
        "database_url": url,
        "smtp_host": stack.mail.host,
        "smtp_port": stack.mail.port,
        "mail_backoff_s": (SOON_S, SOON_S * 4),
        "mail_poll_s": SOON_S,
    }
    return NotificationsSettings.model_validate(given | more)


@pytest_asyncio.fixture
async def post(stack: Stack) -> AsyncIterator[Post]:
    with scratch_database(stack, Principal.NOTIFICATIONS) as url:
        engine = postgres.engine(url)
        yield Post(stack.mail, engine, settings(stack, url), url)
        await engine.dispose()


@pytest.fixture
def refusing(stack: Stack) -> Iterator[None]:
    """The server puts every mail off with 451 until the test ends, or removes the file."""
    stack.mail.refuse.touch()
    yield
    stack.mail.refuse.unlink(missing_ok=True)


@pytest.fixture
def deaf(stack: Stack) -> Iterator[None]:
    """The server keeps every mail and breaks the connection without an answer, likewise."""
    stack.mail.hang_after_data.touch()
    yield
    stack.mail.hang_after_data.unlink(missing_ok=True)


class TestContent:
    @pytest.mark.parametrize(
        ("language", "welcome", "receipt"),
        [
            (Language.FR, "Bienvenue chez Popfax", "Nina"),
            (Language.EN, "Welcome to Popfax", "Nina"),
        ],
    )
    async def test_both_mails_come_in_the_recipients_language_as_text_and_html(
        self, post: Post, language: Language, welcome: str, receipt: str
    ) -> None:
        owner, member = post.person("Olga", language), post.person("Nina", language, fax_number="+33170000001")
        await post.create(owner, member)
        assert await post.send_all() == 2
        (to_member,), (to_owner,) = post.arrived(member), post.arrived(owner)
        assert to_member["subject"] == welcome
        assert receipt in to_owner["subject"]
        for mail, texts in (
            (to_member, ("+33170000001", "https://www.popfax.example/password?token=")),
            (to_owner, ("120", member.email)),
        ):
            assert mail.get_content_type() == "multipart/alternative"
            for kind in ("plain", "html"):
                part = mail.get_body((kind,))
                assert part is not None
                content = part.get_content()
                for text in texts:
                    assert text in content, f"{text} in {kind}"
        plan = "Envoyez et Recevez" if language is Language.FR else "Send and Receive"
        assert plan in str(to_member)

    async def test_names_beyond_ascii_and_idn_domains_come_out_right(self, post: Post) -> None:
        email = f"lea.{post.mark}@b\u00fccher.example"
        command = _command(email=email, first_name="Léa", last_name="O'Brian-Žižka, «dite» 李")
        assert command.email == f"lea.{post.mark}@xn--bcher-kva.example"
        member = post.person("x", email=command.email, first_name=command.first_name, last_name=command.last_name)
        await post.create(post.person("Zoë"), member)
        await post.send_all()
        (mail,) = post.arrived(member)
        assert mail["to"].addresses[0].display_name == "Léa O'Brian-Žižka, «dite» 李"
        assert mail["to"].addresses[0].addr_spec == command.email
        body = mail.get_body(("plain",))
        assert body is not None
        assert "Léa" in body.get_content()

    async def test_a_mailbox_name_beyond_ascii_is_written_to_as_it_is(self, post: Post) -> None:
        member = post.person("x", email=_command(email=f"jérôme.{post.mark}@example.com").email)
        other = post.person("Ada")
        await post.create(post.person("Zoë"), member)
        await post.create(post.person("Yan"), other)
        await post.send_all()
        assert len(post.arrived(other)) == 1, "it stops no other mail"
        # Its headers are UTF-8 (RFC 6532), which Python's parser does not read as such.
        written = [path.read_bytes() for path in post.sink.mails.glob("*.eml")]
        line = f"To: x Martin <{member.email}>\r\n".encode()
        assert sum(line in mail for mail in written) == 1

    @pytest.mark.parametrize("control", ["\r", "\n", "\x00", "\u2028", "\x85"])
    @pytest.mark.parametrize("field", ["first_name", "last_name", "email"])
    def test_the_contracts_refuse_what_could_begin_a_line(self, field: str, control: str) -> None:
        value = f"a{control}Bcc: x@example.com" if field != "email" else f"a{control}b@example.com"
        with pytest.raises(ValidationError):
            _command(**{field: value})
        with pytest.raises(ValidationError):
            Post.person(Post(None, None, None, ""), "x", **{field: value})  # type: ignore[arg-type]

    async def test_names_that_look_like_markup_stay_text(self, post: Post) -> None:
        member = post.person("x", first_name="<b>Eve</b>", last_name='"{{ 7*7 }}"')
        await post.create(post.person("Zoë"), member)
        await post.send_all()
        html = post.arrived(member)[0].get_body(("html",))
        assert html is not None
        assert "&lt;b&gt;Eve&lt;/b&gt;" in html.get_content()
        assert post.arrived(member)[0]["to"].addresses[0].display_name == '<b>Eve</b> "{{ 7*7 }}"'


def _command(**changed: Any) -> CreateMemberAccount:
    fields = {
        "group_id": uuid4(),
        "plan": "send_only",
        "price_units": 60,
        "email": "a@example.com",
        "first_name": "A",
        "last_name": "B",
        "language": "fr",
    }
    return CreateMemberAccount.model_validate(fields | changed)


class TestOnce:
    async def test_a_mail_is_sent_once_and_then_forgotten(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.create(owner, member)
        before = await post.row(member)
        assert len(before.params["token"]) == 64
        await post.send_all()
        await post.make_due()
        assert await post.send_all() == 0
        (mail,) = post.arrived(member)
        row = await post.row(member)
        assert mail["message-id"] == f"<{row.id}@popfax.example>"
        assert (row.state, row.params, row.rendered, row.recipient) == ("sent", {}, None, None)
        assert (row.attempts, row.uncertain, row.in_flight_since) == (1, 0, None)
        assert row.sent_at is not None
        everything = str(execute(post.url, "SELECT m, d FROM mails m JOIN deliveries d ON d.mail_id = m.id"))
        assert member.email not in everything
        assert before.params["token"] not in everything

    async def test_a_mail_waits_for_its_recipients_record(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, member))
        assert await post.send_all() == 0, "the receipt speaks of the member too"
        await post.tell(member)
        assert await post.send_all() == 2
        assert len(post.arrived(member)) == 1

    async def test_two_senders_at_once_send_each_mail_once(self, post: Post, stack: Stack) -> None:
        pairs = [(post.person(f"O{i}"), post.person(f"N{i}")) for i in range(40)]
        await post.tell(*(message for owner, member in pairs for message in (owner, member, created(owner, member))))
        other = postgres.engine(post.url)
        began = time.monotonic()
        tasks = [
            asyncio.create_task(send_mails(engine, settings(stack, post.url, mails_at_once=7), Outages(), Wakeup()))
            for engine in (post.engine, other)
        ]
        await eventually(lambda: _all_sent(post), "all mails sent", 60)
        print(f"{2 * len(pairs) / (time.monotonic() - began):.0f} mails/s with two senders")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await other.dispose()
        ids = [mail["message-id"] for mail in post.arrived_here()]
        assert len(ids) == len(set(ids)) == 2 * len(pairs)

    async def test_the_rate_of_one_sender(self, post: Post, stack: Stack) -> None:
        pairs = [(post.person(f"O{i}"), post.person(f"N{i}")) for i in range(100)]
        await post.tell(*(message for owner, member in pairs for message in (owner, member, created(owner, member))))
        post.settings = settings(stack, post.url, mails_at_once=100)
        began = time.monotonic()
        assert await post.send_all() == 200
        print(f"{200 / (time.monotonic() - began):.0f} mails/s with one sender")
        assert len(post.arrived_here()) == 200


async def _all_sent(post: Post) -> bool:
    async with post.engine.connect() as connection:
        query = sa.select(sa.func.count()).select_from(mails).where(mails.c.state != "sent")
        return (await connection.execute(query)).scalar() == 0


class TestTrouble:
    async def test_what_is_put_off_is_tried_again_later_with_the_same_bytes(self, post: Post, refusing: None) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.create(owner, member)
        assert await send_due(post.engine, post.settings) == 2
        row = await post.row(member)
        assert (row.state, row.attempts, row.last_answer, row.uncertain) == ("rendered", 1, "451", 0)
        assert (row.next_attempt_at - row.made_at).total_seconds() > 0
        assert post.arrived(member) == []

        async def tried_again() -> bool:
            await send_due(post.engine, post.settings)
            return bool((await post.row(member)).attempts >= 3)

        await eventually(tried_again, "a third attempt")
        rendered = (await post.row(member)).rendered
        assert rendered == row.rendered
        post.sink.refuse.unlink()

        async def has_arrived() -> bool:
            await send_due(post.engine, post.settings)
            return bool(post.arrived(member))

        await eventually(has_arrived, "the mail")
        assert [mail["message-id"] for mail in post.arrived(member)] == [f"<{row.id}@popfax.example>"]

    async def test_the_pauses_grow_as_the_settings_say(self, post: Post, stack: Stack, refusing: None) -> None:
        post.settings = settings(stack, post.url, mail_backoff_s=(100, 1000))
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        pauses = []
        for _ in range(3):
            await post.make_due()
            await send_due(post.engine, post.settings)
            async with post.engine.connect() as connection:
                query = sa.select(sa.func.min(mails.c.next_attempt_at) - sa.func.now())
                pauses.append((await connection.execute(query)).scalar_one().total_seconds())
        assert [round(pause, -2) for pause in pauses] == [100, 1000, 1000]

    async def test_a_server_that_is_away_is_no_refusal(self, post: Post, stack: Stack) -> None:
        post.settings = settings(stack, post.url, smtp_port=1)
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        await send_due(post.engine, post.settings)
        row = await post.row(member)
        assert (row.state, row.attempts, row.uncertain) == ("rendered", 1, 0)
        assert row.rendered is not None

    async def test_an_answer_that_is_not_heard_counts_as_uncertain_and_the_mail_is_sent_again(
        self, post: Post, deaf: None
    ) -> None:
        uncertain = metrics.UNCERTAIN._value.get()
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        await send_due(post.engine, post.settings)
        row = await post.row(member)
        assert (row.state, row.uncertain) == ("rendered", 1)
        post.sink.hang_after_data.unlink()
        await _until_sent(post)
        ids = [mail["message-id"] for mail in post.arrived(member)]
        assert ids == [f"<{row.id}@popfax.example>"] * 2
        assert (await post.row(member)).uncertain == 1
        assert metrics.UNCERTAIN._value.get() - uncertain == 2  # the owner's, too

    async def test_what_the_server_said_is_recorded_once_the_database_takes_it_and_the_mail_is_not_sent_again(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member, outages, deliver = post.person("Nora"), Outages(), sender._deliver
        await post.create(post.person("Omar"), member)

        async def deliver_and_break(*given: Any) -> Any:
            answers = await deliver(*given)
            execute(post.url, "ALTER TABLE deliveries RENAME TO gone")
            return answers

        monkeypatch.setattr(sender, "_deliver", deliver_and_break)
        round_ = asyncio.create_task(send_due(post.engine, post.settings, outages))
        await eventually(lambda: "answers of the mail server" in outages.waits, "the sender waits, and says so")
        execute(post.url, "ALTER TABLE gone RENAME TO deliveries")
        assert await round_ == 2
        row = await post.row(member)
        assert (row.state, row.uncertain, row.in_flight_since) == ("sent", 0, None)
        await post.make_due()
        assert await send_due(post.engine, post.settings) == 0
        assert len(post.arrived(member)) == 1

    async def test_a_bug_in_one_attempt_leaves_the_answers_to_the_others(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others, broken = [post.person(name) for name in ("Ada", "Bea", "Cleo")], post.person("Nina")
        for each in (*others, broken):
            await post.tell(each, created(each, each))
        send = MailServer.send

        async def fails_for_one(to: MailServer, mail: Envelope, *limits: float) -> Reply:
            if mail.recipient == broken.email:
                raise RuntimeError
            return await send(to, mail, *limits)

        monkeypatch.setattr(MailServer, "send", fails_for_one)
        await send_due(post.engine, post.settings)
        monkeypatch.undo()
        await post.make_due()
        await post.send_all()
        assert [len(post.arrived(each)) for each in (*others, broken)] == [2, 2, 2, 2]

    async def test_a_sender_goes_on_once_the_database_is_as_it_knows_it(self, stack: Stack, post: Post) -> None:
        member, outages = post.person("Noah"), Outages()
        await post.create(post.person("Ole"), member)
        execute(post.url, "ALTER TABLE mails RENAME TO gone")
        sending = asyncio.create_task(send_mails(post.engine, post.settings, outages, Wakeup()))
        await eventually(lambda: "mails" in outages.waits, "the sender waits, and says so")
        execute(post.url, "ALTER TABLE gone RENAME TO mails")
        await eventually(lambda: post.arrived(member), "the mail arrives")
        await eventually(lambda: not outages.waits, "the wait is over")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    async def test_a_sender_that_dies_in_flight_leaves_a_mail_that_is_counted_and_sent_again(self, post: Post) -> None:
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        # In the database, what writes an answer down waits for a lock that we hold: it dies between answer and record.
        execute(post.url, HOLD_RECORDS)
        other = postgres.engine(post.url)
        async with other.connect() as holder:
            await holder.execute(sa.text("SELECT pg_advisory_lock(42)"))
            round_ = asyncio.create_task(send_due(post.engine, post.settings))
            await eventually(lambda: execute(post.url, WAITING)[0][0] > 0, "the record waits")
            round_.cancel()
            await asyncio.gather(round_, return_exceptions=True)
            execute(post.url, "DROP FUNCTION hold CASCADE")
        await other.dispose()
        assert len(post.arrived(member)) == 1
        row = await post.row(member)
        assert row.in_flight_since is not None
        assert await send_due(post.engine, post.settings) == 0, "it is left to who had it, for a while"
        await post.make_due()
        assert await post.send_all() == 2
        assert [mail["message-id"] for mail in post.arrived(member)] == [f"<{row.id}@popfax.example>"] * 2
        after = await post.row(member)
        assert (after.state, after.uncertain, after.attempts) == ("sent", 1, 2)

    async def test_a_paused_senders_answer_does_not_count_once_another_one_has_taken_the_mail(
        self, post: Post, refusing: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member, deliver = post.person("Nadia"), sender._deliver
        await post.create(post.person("Odile"), member)

        async def overtaken(*of: Any) -> list[sender.Answer]:
            answers = await deliver(*of)
            await post.make_due()  # it was paused for longer than its lease
            async with post.engine.begin() as connection:
                assert len(await sender._take(connection, post.settings, datetime.now(UTC))) == 2
            return answers

        monkeypatch.setattr(sender, "_deliver", overtaken)
        await send_due(post.engine, post.settings)
        monkeypatch.undo()
        row = await post.row(member)
        assert (row.attempts, row.in_flight_since is None) == (2, False), "the other one's flight goes on"
        await asyncio.sleep(2 * SOON_S)
        assert await send_due(post.engine, post.settings) == 0, "and so does its lease"

    async def test_a_mail_that_cannot_be_made_is_parked_with_a_code_and_stops_no_other(self, post: Post) -> None:
        odd, member = post.person("Odd"), post.person("Nina")
        await post.create(post.person("Olga"), odd)
        await post.create(post.person("Olga2"), member)
        execute(post.url, "UPDATE people SET language = 'xx' WHERE id = %s", odd.subscriber_id)
        await post.send_all()
        assert len(post.arrived(member)) == 1
        await post.make_due()
        assert await post.send_all() == 0, "it is not tried again by itself"
        row = await post.row(odd)
        assert (row.state, row.last_answer, row.rendered) == ("parked", "not_rendered", None)
        assert row.params["token"], "it is not lost"
        execute(post.url, "UPDATE people SET language = 'fr' WHERE id = %s", odd.subscriber_id)
        execute(post.url, "UPDATE mails SET state = 'queued' WHERE id = %s", row.id)  # as `popfax mail retry` does
        await post.send_all()
        assert len(post.arrived(odd)) == 1

    async def test_bytes_that_would_say_anything_else_are_parked_and_never_sent(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        monkeypatch.setattr(mime, "_text", lambda header, text: f"{text.encode()}\r\nBcc: b@c.example")
        await post.send_all()
        row = await post.row(member)
        assert (row.state, row.last_answer, row.attempts, row.rendered) == ("parked", "unsound", 0, None)
        assert post.arrived_here() == []
        await post.tell(gone(member))
        await _assert_forgotten(post, member)

    @pytest.mark.parametrize("name", ["x" * 78, "x" * 100, "é" * 100, "漢" * 100])
    async def test_a_long_name_leaves_the_mail_whole(self, post: Post, name: str) -> None:
        member = post.person("Nina", first_name=name)
        await post.create(post.person("Olga", first_name=name, last_name=name), member)
        await post.send_all()
        (mail,) = post.arrived(member)
        assert mail["message-id"] is not None
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


LONG_AGO = {"day": "25 hours", "week": "169 hours"}


class TestStrangers:
    """Mails to, or about, somebody who was never registered."""

    async def age(self, post: Post, by: str) -> None:
        execute(post.url, "UPDATE mails SET made_at = made_at - %s::interval", LONG_AGO[by])

    async def test_a_mail_about_a_stranger_goes_out_after_a_day_and_names_nobody(self, post: Post) -> None:
        owner, stranger = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, stranger))
        assert await post.send_all() == 0
        await self.age(post, "day")
        assert await post.send_all() == 1
        (mail,) = post.arrived(owner)
        assert "a member" in mail["subject"]
        assert (await post.row(stranger)).state == "queued", "that to her waits longer"

    async def test_a_mail_waits_for_the_records_of_all_whom_it_names_and_keeps_no_other_waiting(
        self, post: Post
    ) -> None:
        owner, nina, odd = post.person("Olga"), post.person("Nina"), post.person("Odd")
        await post.tell(owner, nina, low(owner, nina, odd))
        assert await post.send_all() == 0
        assert (await post.row(owner)).next_attempt_at > datetime.now(UTC), "others are looked at before it again"
        await post.tell(odd)
        await post.make_due()
        assert await post.send_all() == 1
        assert "- Odd Martin" in post.arrived(owner)[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]

    async def test_a_mail_that_names_a_stranger_goes_out_after_a_day(self, post: Post) -> None:
        owner, nina, odd = post.person("Olga"), post.person("Nina"), post.person("Odd")
        await post.tell(owner, nina, low(owner, nina, odd))
        await post.send_all()
        await self.age(post, "day")
        await post.make_due()
        assert await post.send_all() == 1
        text = post.arrived(owner)[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert "- Nina Martin" in text
        assert "- A member" in text

    async def test_a_mail_to_a_stranger_is_abandoned_after_a_week_and_its_token_forgotten(self, post: Post) -> None:
        owner, stranger = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, stranger))
        await self.age(post, "day")
        await post.send_all()
        await self.age(post, "week")
        assert await post.send_all() == 0
        row = await post.row(stranger)
        assert (row.state, row.params) == ("abandoned", {})
        await post.tell(stranger)
        assert await post.send_all() == 0, "no link in it would be good any more"

    async def test_a_mail_to_somebody_whose_record_comes_late_is_sent(self, post: Post) -> None:
        owner, late = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, late))
        await self.age(post, "day")
        await post.tell(late)
        assert await post.send_all() == 2
        assert len(post.arrived(late)) == 1


class TestErasure:
    async def test_what_waits_for_who_is_erased_is_dropped(self, post: Post, refusing: None) -> None:
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        await send_due(post.engine, post.settings)
        assert (await post.row(member)).rendered is not None
        await post.tell(gone(member))
        await _assert_forgotten(post, member)
        post.sink.refuse.unlink()
        await post.make_due()
        await post.send_all()
        assert post.arrived(member) == []

    async def test_what_names_who_is_erased_goes_out_without_the_name(self, post: Post, refusing: None) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.create(owner, member)
        await send_due(post.engine, post.settings)
        await post.tell(gone(member))
        assert (await post.row(owner)).rendered is None
        post.sink.refuse.unlink()
        await post.make_due()
        await post.send_all()
        (mail,) = post.arrived(owner)
        assert "a member" in mail["subject"]
        assert not any(word in str(mail) for word in ("Nina", member.email))
        assert (await post.row(owner)).state == "sent"

    async def test_a_mail_that_names_several_is_kept_without_their_names(self, post: Post, refusing: None) -> None:
        """It is rendered at each attempt: who is erased meanwhile need not be looked for in it."""
        owner, nina, odd = post.person("Olga"), post.person("Nina"), post.person("Odd")
        await post.tell(owner, nina, odd, low(owner, nina, odd))
        await send_due(post.engine, post.settings)
        row = await post.row(owner)
        assert (row.state, row.rendered, row.recipient, row.attempts) == ("rendered", None, None, 1)
        await post.tell(gone(nina))
        post.sink.refuse.unlink()
        await post.make_due()
        assert await post.send_all() == 1
        (mail,) = post.arrived(owner)
        assert mail["message-id"] == f"<{row.id}@popfax.example>"
        text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert "- A member" in text
        assert "- Odd Martin" in text
        assert "Nina" not in str(mail)
        assert (await post.row(owner)).params == {}

    async def test_a_mail_about_somebody_known_by_their_erasure_alone_does_not_wait_for_ever(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, member), gone(member))
        assert await post.send_all() == 1
        assert "a member" in post.arrived(owner)[0]["subject"]
        await _assert_forgotten(post, member)

    async def test_a_mail_that_an_erasure_has_not_seen_is_dropped_by_the_sender(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.tell(owner, created(owner, member))
        execute(post.url, "INSERT INTO erased VALUES (%s)", member.subscriber_id)  # as if both had just committed
        assert await post.send_all() == 1
        assert "a member" in post.arrived(owner)[0]["subject"]
        await _assert_forgotten(post, member)

    async def test_a_mail_in_flight_ends_and_its_row_loses_the_address(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member = post.person("Nina")
        await post.create(post.person("Olga"), member)
        meanwhile(post, gone(member), monkeypatch)
        await send_due(post.engine, post.settings)
        assert len(post.arrived(member)) == 1
        row = await post.row(member)
        assert row.sent_at is not None
        await _assert_forgotten(post, member)

    async def test_a_mail_in_flight_that_is_put_off_is_not_tried_again(
        self, post: Post, refusing: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.create(owner, member)
        meanwhile(post, gone(member), monkeypatch)
        await send_due(post.engine, post.settings)
        monkeypatch.undo()
        post.sink.refuse.unlink()
        await post.make_due()
        assert await post.send_all() == 1
        assert post.arrived(member) == []
        assert "Nina" not in str(post.arrived(owner)[0]), "what spoke of her, too, was in flight"
        await _assert_forgotten(post, member)

    async def test_an_erasure_waits_for_who_is_rendering(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.create(owner, member)
        async with post.engine.begin() as connection:
            assert len(await sender._take(connection, post.settings, datetime.now(UTC))) == 2
            erasure = asyncio.create_task(post.tell(gone(member)))
            await eventually(lambda: execute(post.url, WAITING_FOR_ROWS)[0][0] > 0, "the erasure waits")
            assert not erasure.done()
        await erasure
        assert (await post.row(owner)).rendered is None, "bytes that name her"
        await _assert_forgotten(post, member)

    async def test_a_sender_does_not_wait_for_who_is_erasing_and_comes_back(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        other = post.person("Odd")
        await post.create(owner, member)
        await post.tell(other, received(owner, other))
        locking = postgres.engine(post.url)
        async with locking.begin() as connection:
            await connection.execute(
                sa.text("SELECT id FROM people WHERE id = :id FOR UPDATE"), {"id": member.subscriber_id}
            )
            async with asyncio.timeout(20):
                assert await send_due(post.engine, post.settings) == 1
            assert len(post.arrived(other)) == 1, "it stops no other mail"
        await locking.dispose()
        assert await send_due(post.engine, post.settings) == 2

    async def test_erasures_while_a_sender_works_leave_nobody_behind(self, post: Post, stack: Stack) -> None:
        pairs = [(post.person(f"O{i}x"), post.person(f"N{i}x")) for i in range(30)]
        await post.tell(*(message for owner, member in pairs for message in (owner, member, created(owner, member))))
        working = asyncio.create_task(
            send_mails(post.engine, settings(stack, post.url, mails_at_once=5), Outages(), Wakeup())
        )
        for start in range(0, 30, 3):
            await post.tell(*(gone(member) for _, member in pairs[start : start + 3]))
        await eventually(lambda: _all_ended(post), "all mails ended", 60)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        kept = str(execute(post.url, "SELECT m, d FROM mails m LEFT JOIN deliveries d ON d.mail_id = m.id"))
        assert [member.email for _, member in pairs if member.email in kept] == []
        states = dict(execute(post.url, "SELECT id, state FROM mails WHERE template = 'receipt'"))
        assert set(states.values()) == {"sent"}
        ids = [mail["message-id"] for mail in post.arrived_here()]
        assert len(ids) == len(set(ids))


class TestBounces:
    async def test_a_bounce_is_told_though_the_text_is_gone(self, post: Post) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        invitation = invited(owner, member)
        await post.tell(owner, member, invitation)
        await post.send_all()
        (mail,) = post.arrived(member)
        body = mail.get_body(("plain",))
        assert body is not None
        assert f"invitation?id={invitation.invitation_id}&token={invitation.token}" in body.get_content()
        mail_id = UUID(mail["message-id"].strip("<>").split("@")[0])
        await post.tell(MailBounced(mail_id=mail_id, reason="no_such_mailbox"))
        assert (await post.row(member)).state == "bounced"
        (told,) = execute(post.url, "SELECT value FROM outbox WHERE type = %s", MailUndeliverable.TYPE)
        assert MailUndeliverable.from_json(told[0]) == MailUndeliverable(
            mail_id=mail_id,
            recipient_id=member.subscriber_id,
            reason="no_such_mailbox",
            invitation_id=invitation.invitation_id,
            round=1,
        )

    async def test_one_that_overtakes_the_servers_answer_stands(
        self, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner, member = post.person("Olga"), post.person("Nina")
        await post.tell(owner, member, invited(owner, member))
        meanwhile(post, MailBounced(mail_id=(await post.row(member)).id, reason="no_such_mailbox"), monkeypatch)
        await post.send_all()
        row = await post.row(member)
        assert (row.state, row.params, row.rendered, row.recipient) == ("bounced", {}, None, None)
        assert row.sent_at is not None


async def test_one_event_delivered_twice_at_once_is_one_mail(post: Post) -> None:
    owner, member = post.person("Olga"), post.person("Nina")
    await post.tell(owner, member)
    events = [received(owner, member) for _ in range(20)]
    other = Post(post.sink, postgres.engine(post.url), post.settings, post.url)
    await asyncio.gather(post.tell(*events), other.tell(*reversed(events)))
    await other.engine.dispose()
    assert await post.send_all() == 20


def gone(person: PersonRecorded) -> PersonErased:
    return PersonErased(subscriber_id=person.subscriber_id)


def invited(owner: PersonRecorded, member: PersonRecorded) -> SendInvitation:
    return SendInvitation(
        invitation_id=uuid4(),
        round=1,
        recipient_id=member.subscriber_id,
        owner_id=owner.subscriber_id,
        group_name=None,
        token="5e" * 32,
        expires_at=datetime.now(UTC) + timedelta(days=7),
    )


def low(owner: PersonRecorded, *members: PersonRecorded) -> SendMembersLow:
    return SendMembersLow(
        group_id=group_of(owner.subscriber_id),
        owner_id=owner.subscriber_id,
        day=datetime.now(UTC).date(),
        below_units=20,
        members=tuple(member.subscriber_id for member in members),
    )


def received(owner: PersonRecorded, member: PersonRecorded) -> UnitsReceived:
    return UnitsReceived(
        group_id=group_of(owner.subscriber_id),
        owner_id=owner.subscriber_id,
        member_id=member.subscriber_id,
        transfer_id=uuid4(),
        amount_units=5,
    )


def meanwhile(post: Post, message: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the sender speaks to the server, and holds no lock, a message comes."""
    deliver = sender._deliver

    async def interrupted(*given: Any) -> Any:
        await post.tell(message)
        return await deliver(*given)

    monkeypatch.setattr(sender, "_deliver", interrupted)


async def _assert_forgotten(post: Post, person: PersonRecorded) -> None:
    """Nothing but ids is left of somebody."""
    row = await post.row(person)
    assert (row.state, row.params, row.rendered, row.recipient) == ("erased", {}, None, None)
    assert execute(post.url, "SELECT id FROM people WHERE id = %s", person.subscriber_id) == []
    assert execute(post.url, "SELECT id FROM erased WHERE id = %s", person.subscriber_id) != []


async def _all_ended(post: Post) -> bool:
    return bool(execute(post.url, "SELECT count(*) = 0 FROM mails WHERE state IN ('queued', 'rendered')")[0][0])


async def _until_sent(post: Post) -> None:
    async def done() -> bool:
        await send_due(post.engine, post.settings)
        return await _all_sent(post)

    await eventually(done, "all mails sent")
