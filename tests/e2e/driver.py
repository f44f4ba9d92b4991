"""Drives the product from outside: publishes as a principal, follows topics from a known position, waits for events."""

import ctypes
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4

import psycopg
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

# The package re-exports these names, but not in a form that mypy accepts.
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from deploy.local.mailsink import read_mails
from deploy.local.product import Product
from deploy.local.stack import Broker
from deploy.operator.invariants import check, check_log, logged
from deploy.operator.kafka import ADMIN
from deploy.operator.snapshots import snapshots
from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    InvitationRefused,
    InvitationSent,
    InviteByEmail,
    MemberAccountCreated,
    MemberAccountRefused,
    MemberJoined,
)
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import RegisterSubscriber, SubscriberRegistered
from popfax_contracts.topics import SERVICES, TOPICS, Principal, Topic
from services.chassis.envelopes import received_headers
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning import catalogue
from services.provisioning.consumers import PROVISIONING
from tests.integration.serving import Client

SETTINGS = {
    "replica": "only",  # static membership: a killed service rejoins its group without waiting for a session timeout
    "batch_records": "20",  # many small batches, so that a kill comes in the middle of them
    "offset_commit_s": "0.1",  # whatever waits until all has settled waits for the last offsets
    "mail_backoff_s": "[0.2, 1]",
    "mail_poll_s": "0.1",
    "invitations_owner_day": "5000",
    "invitations_owner_pending": "5000",
}
"""The services' settings in these tests, with short delays."""

KILLED_SETTINGS = SETTINGS | {"mail_lease_s": "4"}
"""Those where senders are killed: their mails are soon others'. One that lives gets a second for each mail."""

DEFINITIONS = {definition.principal: definition for definition in (GROUPS, LEDGER, PROVISIONING, NOTIFICATIONS)}

PRICES = {name: plan.price_units for name, plan in catalogue.read(catalogue.DEFAULT).plans.items()}

SETTLED_S = 90.0
"""The longest wait until everything has settled after something was killed, in seconds."""

REPLACED_S = 60.0
"""A client that brings nothing for this long, although it is asked, may have forgotten all brokers, or deadlocked."""

Headers = Sequence[tuple[str, bytes | None]]

TIMEOUT_S = 30.0
"""The longest wait of a test in which nothing is killed, on a busy machine, in seconds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record in Kafka."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    at: float = 0.0
    """When the broker appended it, in seconds since 1970."""

    def header(self, name: str) -> str:
        """Return a header's text, empty if it has none."""
        return next(((value or b"").decode(errors="replace") for key, value in self.headers if key == name), "")

    @property
    def kind(self) -> str:
        """Its CloudEvents type."""
        return self.header("ce_type")

    @property
    def id(self) -> str:
        """Its CloudEvents id."""
        return self.header("ce_id")

    @property
    def correlation(self) -> str:
        """Its correlation id."""
        return self.header("ce_correlationid")

    def says(self, model: type[Message]) -> bool:
        """Return whether it is a message of this type."""
        return self.kind == model.TYPE

    def __getitem__(self, name: str) -> Any:
        """Return a field of its value."""
        return json.loads(self.value or b"{}")[name]


class Wire:
    """Publishes to Kafka as one principal."""

    def __init__(self, broker: Broker, user: Principal = Principal.PLATFORM) -> None:
        self._user = user
        config = {"partitioner": "murmur2_random", "linger.ms": 2, "message.max.bytes": 1_000_000}
        self._producer = Producer({**broker.client_config(user), **config, "log_level": 0})
        self._failed: list[str] = []

    def send(self, message: Message, actor: UUID | None = None, id_: UUID | None = None, **headers: str) -> str:
        """Publish a message without waiting; return its id, which is also its correlation id."""
        made = str(id_ or uuid4())
        given = {
            "ce_specversion": "1.0",
            "ce_id": made,
            "ce_type": message.TYPE,
            "ce_source": "popfax/tests",
            **headers,
        }
        if actor is not None:
            given["ce_actor"] = str(actor)
        encoded = [(name, text.encode()) for name, text in given.items()]
        self.send_raw(message.topic_of(self._user).name, message.key().encode(), message.to_json(), encoded)
        return made

    def send_raw(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int = -1
    ) -> None:
        """Publish any bytes without waiting."""
        if partition >= 0:
            self._producer.produce(topic, value, key, partition, headers=list(headers), on_delivery=self._delivered)
        else:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=self._delivered)
        self._producer.poll(0)

    def flush(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until Kafka has everything."""
        left = self._producer.flush(timeout_s)
        assert left == 0, f"{left} records were not taken"
        assert not self._failed, self._failed[:3]

    def _delivered(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(str(error))


@dataclass
class Log:
    """The records published since this log was created, read as the super user, outside any group."""

    broker: Broker
    topics: Sequence[Topic] = TOPICS
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note the present ends of the topics."""
        self.start = ends_of(self.broker, self.topics)
        self._next = dict(self.start)
        self._connect()

    def _connect(self) -> None:
        # The group is never joined: partitions are assigned by hand, and nothing is committed.
        config = {"group.id": "tests", "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}
        config |= {"fetch.wait.max.ms": 50}
        self._consumer = Consumer({**self.broker.client_config(ADMIN), **config})
        self._consumer.assign([TopicPartition(topic, number, at) for (topic, number), at in self._next.items()])
        self._waited_s = 0.0

    def read(self, timeout_s: float = 0.1) -> list[Seen]:
        """Read what has arrived; return everything seen so far."""
        messages = self._consumer.consume(2000, timeout_s)
        for message in messages:
            place = (message.topic() or "", message.partition() or 0)
            offset, error = message.offset() or 0, message.error()
            if error is None:
                raw, at = received_headers(message), message.timestamp()[1] / 1000
                self.seen.append(Seen(*place, offset, _bytes(message.key()), _bytes(message.value()), tuple(raw), at))
                self._next[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._next[place] = offset  # behind what is no record, such as the end of a transaction
        self._waited_s = 0.0 if messages else self._waited_s + timeout_s
        if self._waited_s > REPLACED_S:
            _leave_behind(self._consumer)
            self._connect()
        return self.seen

    def read_to_end(self, timeout_s: float = TIMEOUT_S) -> list[Seen]:
        """Read up to the present ends of the topics; return everything seen so far."""
        ends = ends_of(self.broker, self.topics)

        def is_read() -> bool:
            self.read()
            return all(self._next.get(place, end) >= end for place, end in ends.items())

        wait(is_read, "the log's end", timeout_s)
        return self.seen

    def wait(self, count: int, wanted: Callable[[Seen], bool], timeout_s: float = TIMEOUT_S) -> list[Seen]:
        """Wait until at least `count` records are `wanted`; return them."""
        found: list[Seen] = []
        checked = 0
        deadline = time.monotonic() + timeout_s
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records after {timeout_s:g} s"
            self.read()
            found += [seen for seen in self.seen[checked:] if wanted(seen)]
            checked = len(self.seen)
        return found

    def outcome(self, correlation: str, *models: type[Message], timeout_s: float = TIMEOUT_S) -> Seen:
        """Wait for a message of one of these types that answers a command."""
        types = {model.TYPE for model in models}
        return self.wait(1, lambda seen: seen.correlation == correlation and seen.kind in types, timeout_s)[0]

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


def _leave_behind(client: Consumer) -> None:
    """Keep a client for good that may have deadlocked (librdkafka's issue 5476): its end would wait for it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))


def admin(broker: Broker) -> AdminClient:
    """Return an admin client of the super user."""
    return AdminClient({**broker.client_config(ADMIN), "log_level": 0})


def ends_of(broker: Broker, topics: Iterable[Topic]) -> dict[tuple[str, int], int]:
    """Return the present end of each partition, asked for by a new client.

    A client that knew the broker before it was killed asks with the leader's old epoch and is refused.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return ends_by(admin(broker), topics)
        except KafkaException:  # the broker is just starting again
            if time.monotonic() > deadline:
                raise


def ends_by(client: AdminClient, topics: Iterable[Topic]) -> dict[tuple[str, int], int]:
    """Return the present end of each partition. Raises `KafkaException`."""
    latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(topic.name, number): latest for topic in topics for number in range(topic.partitions)}
    found = client.list_offsets(wanted, request_timeout=5)
    return {(place.topic, place.partition): future.result().offset for place, future in found.items()}


def committed_by(client: AdminClient) -> dict[Principal, dict[tuple[str, int], int]]:
    """Return the offsets that each service has committed. Raises `KafkaException`."""
    asked = {
        service: client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(service.value)])[service.value]
        for service in SERVICES
    }
    groups = {service: future.result() for service, future in asked.items()}
    return {
        service: {(place.topic, place.partition): place.offset for place in group.topic_partitions}
        for service, group in groups.items()
    }


def wait(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a condition holds; fail, naming it, after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {timeout_s:g} s"
        time.sleep(0.05)


def first_occurrences(records: Iterable[Seen]) -> list[Seen]:
    """Drop repetitions, as a consumer's inbox does."""
    return list({seen.id: seen for seen in reversed(list(records))}.values())[::-1]


@lru_cache(maxsize=10_000)
def _to(mail: EmailMessage) -> str:
    """Return a mail's recipient: each look at a header parses it."""
    return str(mail["to"])


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Owner:
    """A subscriber who owns a group, and the units that they were given."""

    id: UUID
    email: str
    units: int


class World:
    """The product as the platform sees it: commands in, events out; and the services' own databases."""

    UNDELIVERED = "SELECT id, state FROM mails WHERE state IN ('queued', 'rendered') LIMIT 1"

    def __init__(self, product: Product) -> None:
        self.product = product
        self.stack = product.stack
        self.wire = Wire(self.stack.kafka)
        self.log = Log(self.stack.kafka)
        self.mark = uuid4().hex[:10]
        self._urls = {principal: self.stack.postgres.url(principal) for principal in SERVICES}
        self._connections: dict[Principal, psycopg.Connection[Any]] = {}
        self._admin: AdminClient | None = None

    def reads_at(self, service: Principal, url: str) -> None:
        """Read a service's database by another URL from now on."""
        self._urls[service] = url

    def client(self, subscriber_id: UUID) -> Client:
        """Return a client of groups' API with a subscriber's token, made by the stand-in for the platform's login."""
        host, _, port = self.product.services[Principal.GROUPS].url.removeprefix("http://").partition(":")
        return Client(host, int(port), self.stack.keys.token(subscriber_id))

    def owner(self, units: int = 1000, name: str = "owner") -> Owner:
        """Register a subscriber with this many units."""
        return self.owners(1, units, name)[0]

    def owners(self, number: int, units: int = 1000, name: str = "owner") -> list[Owner]:
        """Register subscribers with this many units each."""
        made = [Owner(uuid4(), f"{name}{uuid4().hex[:8]}.{self.mark}@example.com", units) for _ in range(number)]
        sent = []
        for owner in made:
            person = {"first_name": "Anne", "last_name": "Martin", "language": Language.FR, "email": owner.email}
            sent.append(self.wire.send(RegisterSubscriber.model_validate(person | {"subscriber_id": owner.id})))
            if units:
                sent.append(
                    self.wire.send(CreditUnits(credit_id=uuid4(), account_id=owner.id, amount_units=owner.units))
                )
        self.wire.flush()
        self.answers(sent, SubscriberRegistered, UnitsCredited)
        known = "SELECT count(*) FROM subscribers WHERE id = ANY(%s) AND email IS NOT NULL"
        ids = [owner.id for owner in made]
        # The directory is a different topic from the answers', so groups may not have read it yet.
        wait(lambda: self.rows(Principal.GROUPS, known, ids) == [(number,)], "groups knows the subscribers")
        return made

    def command(self, owner: Owner, email: str = "", **changed: Any) -> CreateMemberAccount:
        """Return the command with which an owner creates a member's account."""
        fields = {
            "group_id": group_of(owner.id),
            "plan": "send_only",
            "price_units": PRICES["send_only"],
            "email": email or f"m{uuid4().hex[:8]}.{self.mark}@example.com",
            "first_name": "Nina",
            "last_name": "Petit",
            "language": Language.EN,
        }
        return CreateMemberAccount.model_validate(fields | changed)

    def create(self, owner: Owner, email: str = "", **changed: Any) -> str:
        """Ask for a member's account; return the command's id."""
        return self.wire.send(self.command(owner, email, **changed), actor=owner.id)

    def ask(self, body: Message, *answers: type[Message], actor: UUID | None = None) -> Seen:
        """Send a command and wait for its answer."""
        id_ = self.wire.send(body, actor)
        self.wire.flush()
        return self.answers([id_], *answers)[id_]

    def invite(self, owner: Owner, invited: Owner) -> tuple[UUID, str]:
        """Have an owner invite a subscriber; return the invitation's id and the token of its newest mail."""
        body = InviteByEmail(group_id=group_of(owner.id), email=invited.email)
        before = len(self.tokens(invited))
        sent = self.ask(body, InvitationSent, InvitationRefused, actor=owner.id)
        assert sent.says(InvitationSent), sent["code"]
        wait(lambda: len(self.tokens(invited)) > before, "the invitation's mail")
        return UUID(sent["invitation_id"]), self.tokens(invited)[-1]

    def tokens(self, invited: Owner) -> list[str]:
        """Return the tokens of the invitations that somebody got by mail, oldest first."""
        texts = [str(mail.get_body(("plain",))) for mail in self.mails_to(invited.email)]
        return [token for text in texts for token in re.findall(r"token=3?D?([0-9a-f]{64})", text.replace("=\n", ""))]

    def join(self, owner: Owner, *joining: Owner) -> None:
        """Make subscribers members by invitation."""
        for member in joining:
            invitation_id, token = self.invite(owner, member)
            self.ask(AcceptInvitation(invitation_id=invitation_id, token=token), MemberJoined)

    def join_without_mail(self, owner: Owner, joining: Collection[Owner]) -> None:
        """Make many subscribers members: logged in at the platform, they need no token."""
        group_id = group_of(owner.id)
        asked = [self.wire.send(InviteByEmail(group_id=group_id, email=each.email), owner.id) for each in joining]
        self.wire.flush()
        invitations = self.answers(asked, InvitationSent).values()
        accepted = [
            self.wire.send(AcceptInvitation(invitation_id=each["invitation_id"]), UUID(each["subscriber_id"]))
            for each in invitations
        ]
        self.wire.flush()
        self.answers(accepted, MemberJoined)

    def outcome(self, command: str, timeout_s: float = TIMEOUT_S) -> Seen:
        """Wait for the outcome of a creation."""
        return self.answers([command], MemberAccountCreated, MemberAccountRefused, timeout_s=timeout_s)[command]

    def answers(
        self, commands: Collection[str], *models: type[Message], timeout_s: float = TIMEOUT_S
    ) -> dict[str, Seen]:
        """Wait for the answer to each of these commands."""
        kinds = {model.TYPE for model in models}
        wanted = set(commands)
        found: dict[str, Seen] = {}

        def all_answered() -> bool:
            for seen in self.log.read():
                if seen.correlation in wanted and seen.kind in kinds:
                    found.setdefault(seen.correlation, seen)
            return len(found) == len(wanted)

        wait(all_answered, f"answers to {len(wanted)} commands", timeout_s)
        return found

    def rows(self, service: Principal, query: str, *parameters: Any) -> list[Any]:
        """Query a service's database."""
        return self._connection(service).execute(query.encode(), parameters or None).fetchall()

    def _connection(self, service: Principal) -> psycopg.Connection[Any]:
        """Return a connection that works: the one of before, unless its server was killed meanwhile."""
        connection = self._connections.get(service)
        if connection is not None:
            try:
                connection.execute("SELECT 1")
            except psycopg.OperationalError:
                connection.close()
            else:
                return connection
        made = psycopg.connect(self._urls[service].replace("+psycopg", "", 1), autocommit=True)
        self._connections[service] = made
        return made

    def available(self, owner: Owner) -> int:
        """Return an owner's available units."""
        query = "SELECT balance_units - held_units FROM accounts WHERE id = %s"
        found = self.rows(Principal.LEDGER, query, owner.id)
        return int(found[0][0]) if found else 0

    def forget_burned(self, hold_id: UUID) -> None:
        """Delete a burned hold that a test made as an orchestrator: it has no saga, so the audit would report it."""
        query = "DELETE FROM holds WHERE id = %s AND state = 'burned' RETURNING id"
        assert self.rows(Principal.LEDGER, query, hold_id) == [(hold_id,)]

    def parked(self) -> dict[Principal, list[Any]]:
        """Return each service's parked messages: topic, partition, position, code."""
        query = "SELECT topic, partition, position, code FROM parked ORDER BY seq"
        return {service: self.rows(service, query) for service in SERVICES}

    def mails_to(self, email: str) -> list[EmailMessage]:
        """Return the mails that an address received."""
        return [mail for mail in read_mails(self.stack.mail.mails) if email in _to(mail)]

    def copies_received(self) -> Counter[str]:
        """Return how often each mail was received, by its id: the local part of its Message-ID."""
        return Counter(str(mail["message-id"])[1:].split("@")[0] for mail in read_mails(self.stack.mail.mails))

    def under_way(self) -> str:
        """Name the first thing that is in flight; return an empty text if there is none."""
        for service in SERVICES:
            if (unsent := self.rows(service, "SELECT count(*) FROM outbox")[0][0]) > 0:
                return f"{unsent} records wait in the outbox of {service}"
        for service in (Principal.GROUPS, Principal.PROVISIONING):
            if found := self.rows(service, "SELECT id, status FROM sagas WHERE ended_at IS NULL LIMIT 1"):
                return f"saga {found[0][0]} of {service} is {found[0][1]}"
        if found := self.rows(Principal.NOTIFICATIONS, self.UNDELIVERED):
            return f"mail {found[0][0]} is {found[0][1]}"
        return self._unconsumed()

    def _unconsumed(self) -> str:
        """Name a partition with records whose offsets its service has not committed, though they are readable."""
        client = self._admin = self._admin or admin(self.stack.kafka)
        try:
            all_ends = ends_by(client, TOPICS)
            all_committed = committed_by(client)
        except KafkaException as error:
            self._admin = None  # one that knew the broker before it was killed is refused for good
            return f"no offsets: {error}"
        for service, definition in DEFINITIONS.items():
            names, committed = {topic.name for topic in definition.topics}, all_committed[service]
            for place, end in all_ends.items():
                if place[0] in names and end > committed.get(place, 0):
                    return f"{service} has committed {committed.get(place, 0)} of {end} on {place[0]}/{place[1]}"
        return ""

    def settle(self, timeout_s: float = SETTLED_S) -> None:
        """Wait until nothing is in flight, and check every invariant."""
        deadline = time.monotonic() + timeout_s
        while what := self.under_way():
            assert time.monotonic() < deadline, f"after {timeout_s:g} s {what}"
            time.sleep(0.2)  # offsets are committed now and then, and asking Kafka for them costs more than the wait
        with snapshots(self._urls) as snapshot:
            found = check(snapshot, settled=True)
        assert not found, found[:5]

    def check_log(self) -> None:
        """Check the invariants of the log on the records since the test began."""
        records = [record for seen in self.log.read_to_end() if (record := logged(seen)) is not None]
        found = check_log(records)
        assert not found, found[:5]

    def disconnect(self) -> None:
        """Close the connections to the databases: the next query opens others."""
        while self._connections:
            self._connections.popitem()[1].close()

    def close(self) -> None:
        """Close the connections."""
        self.log.close()
        self.disconnect()
