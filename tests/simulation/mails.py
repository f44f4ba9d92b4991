"""Mails under a seed: replicas of notifications that write them and send them, and a mail server that breaks off.

Each replica is the service's own handlers in the chassis' shell, and the whole sender with aiosmtplib, over models of
PostgreSQL and of TCP. Kafka is only where messages wait: its partitions are dealt out once, and a replica that is
started again goes on where its last batch was noted.
"""

import asyncio
import re
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID

from popfax_contracts.groups import MemberAccountCreated, TransferredLeg, UnitsReceived, UnitsTransferred
from popfax_contracts.message import Message
from popfax_contracts.notifications import MailBounced, SendInvitation
from popfax_contracts.provisioning import PersonErased, PersonRecorded
from popfax_contracts.topics import Principal
from services.chassis.arrivals import Fetched
from services.chassis.database import Outage
from services.chassis.outages import Outages
from services.chassis.settings import settings_from
from services.chassis.shell import FromKafka, Shell
from services.chassis.wakeups import Wakeup
from services.notifications import sender
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.domain import RECIPIENT_WAIT, UNDONE, Delivery, Mail, MailState, Template
from services.notifications.letters import letters
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import DELIVERIES, ERASED, MAILS
from tests.simulation.hub import HubClock, Process
from tests.simulation.kafka import Place
from tests.simulation.mailserver import HOST, PORT, Accepted, MailServerModel, Manners
from tests.simulation.replicas import PARTITIONS, Story, Tell, silent
from tests.simulation.sending import SendersDatabase, VirtualDate
from tests.simulation.transactions import ModelDatabase, Server

PEOPLE = 5
BATCH = 5
LATE_S = 1.0
"""How much later than its lease something may be said: answers take so long to arrive."""

_MAIL_ID = re.compile(rb"^Message-ID: <([^@>]+)@", re.MULTILINE)
_TO = re.compile(rb"^To: .*<([^>]+)>", re.MULTILINE)
_RENDERED_AGAIN = {Template.TRANSFER_RECEIPT}
"""Mails that name several people, and are not kept as bytes."""


@dataclass
class _Human:
    """Somebody in the story. All that is personal contains their name, which nobody else has."""

    id: UUID
    name: str
    emails: list[str] = field(default_factory=list)
    """The addresses that they have had; none while no record of them has been published."""
    erased_at: float | None = None


class Mails(Story):
    """Two or three replicas of notifications, their database, and a mail server."""

    kinds = (
        (6, "freeze"),
        (2, "kill"),
        (2, "stop"),
        (2, "losses"),
        (1, "terminate"),
        (8, "manners"),
        (2, "closed"),
        (4, "cut"),
    )
    faults_every_s = 3.0
    longest_freeze_s = 20.0

    def __init__(self, seed: int, tell: Tell = silent) -> None:
        super().__init__(seed, tell)
        self.lasts_s = self.random.choice([10.0, 20.0])
        self.settings = _settings().model_copy(
            update={
                "smtp_connections": self.random.choice([1, 2, 4]),
                "smtp_mails_per_s": self.random.choice([None, None, 5.0]),
                "mails_at_once": self.random.choice([2, 5, 20]),
                "mail_backoff_s": (0.5, 1.0, 3.0),
                "mail_lease_s": self.random.choice([4.0, 8.0]),
                "mail_poll_s": 0.5,
            }
        )
        self.people: list[_Human] = []
        self.named: list[_Human] = []
        """All who ever were in the story."""
        self.sent: list[Message] = []
        self.handled: dict[Place, int] = {}
        self.sending: dict[str, asyncio.Task[None]] = {}
        self.skipped = False

    @contextmanager
    def simulated(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(super().simulated())
            stack.enter_context(patch.object(sender, "PostgresDatabase", lambda database: database))
            stack.enter_context(patch.object(sender, "datetime", VirtualDate(self.hub)))
            stack.enter_context(patch.object(sender, "log", _Log(self.findings)))
            stack.enter_context(patch.object(socket, "getfqdn", lambda: "replica.example"))
            yield

    def begin(self) -> None:
        self.server = Server(self.hub, Principal.NOTIFICATIONS)
        self.servers.append(self.server)
        self.mailserver = MailServerModel(self.hub, self._wrote)
        for _ in range(PEOPLE):
            self._meet()
        replicas = self.random.choice([2, 2, 3])
        for number in range(replicas):
            places = [
                (topic.name, n) for topic in NOTIFICATIONS.topics for n in range(PARTITIONS) if n % replicas == number
            ]
            self.handled |= dict.fromkeys(places, 0)
            self.replica(f"notifications {number}", partial(self._works, places))
        self.pause_s = self.random.choice([0.1, 0.3])
        self._send()
        self._look()

    # --- replicas ---

    def _works(self, places: list[Place], process: Process) -> None:
        async def work() -> None:
            committed, database = Wakeup(), SendersDatabase(self.server, process)
            shell = Shell(
                NOTIFICATIONS, ModelDatabase(self.server, process), HubClock(self.hub), lambda _: committed.wake()
            )
            sends = sender.send_mails(database, self.settings, Outages(self.hub.time), committed)  # type: ignore[arg-type]
            async with asyncio.TaskGroup() as group:
                self.sending[process.name] = sending = group.create_task(sends)
                sending.add_done_callback(partial(self._ended, process))
                group.create_task(self._handle(shell, places))

        process.start(work)

    def _ended(self, process: Process, sending: asyncio.Task[None]) -> None:
        if not sending.cancelled():
            self.findings.append(f"{process.name} stops sending: {sending.exception()!r}")

    async def _handle(self, shell: Shell, places: list[Place]) -> None:
        while True:
            batch = [record for place in places for record in self._next(place)]
            try:
                await shell.process(batch, FromKafka())
            except Outage:
                await asyncio.sleep(0.1)
                continue
            self.handled |= {(record.topic, record.partition): record.offset + 1 for record in batch}
            await asyncio.sleep(0.02 if batch else 0.1)

    def _next(self, place: Place) -> list[Fetched]:
        return self.broker.logs[place].records[self.handled[place] :][:BATCH]

    # --- what happens in the product ---

    def _meet(self) -> _Human:
        """Have somebody new, of whom nothing is known yet."""
        human = _Human(self.uuid(), f"p{len(self.named)}{self.random.getrandbits(24):06x}")
        self.people.append(human)
        self.named.append(human)
        if self.random.random() < 0.7:
            self._record(human)
        return human

    def _record(self, human: _Human) -> None:
        """Publish somebody's record, with a new address."""
        human.emails.append(f"{human.name}.{len(human.emails)}@people.example")
        language = self.random.choice(["fr", "en"])
        self._append(
            PersonRecorded(
                subscriber_id=human.id,
                email=human.emails[-1],
                first_name=human.name,
                last_name="Martin",
                language=language,
            )
        )

    def _erase(self, human: _Human) -> None:
        self.people.remove(human)
        self._append(PersonErased(subscriber_id=human.id))
        self._meet()

    def _send(self) -> None:
        """Publish something that concerns mails, twice now and then."""
        if self.is_calm:
            return
        owner, member = self.random.sample(self.people, 2)
        chance = self.random.random()
        if chance < 0.08:
            self._record(member)
        elif chance < 0.14:
            self._erase(member)
        else:
            message = self._bounce() if chance < 0.2 and self.mailserver.accepted else self._news(owner, member)
            for _ in range(self.random.choice([1, 1, 1, 2])):
                self._append(message)
        self.hub.after(self.random.expovariate(1 / self.pause_s), self._send)

    def _news(self, owner: _Human, member: _Human) -> Message:
        both = {"owner_id": owner.id, "member_id": member.id, "group_id": owner.id}
        kind = self.random.randrange(4)
        if kind == 0:
            return MemberAccountCreated(**both, plan="send_only", price_units=3)
        if kind == 1:
            return UnitsReceived(**both, transfer_id=self.uuid(), amount_units=5)
        if kind == 2:
            return SendInvitation(
                invitation_id=self.uuid(),
                round=1,
                recipient_id=member.id,
                owner_id=owner.id,
                group_name=f"{owner.name} SA",
                token="0" * 64,
                expires_at=self.hub.date() + timedelta(days=9),
            )
        legs = tuple(TransferredLeg(member_id=each.id, amount_units=5) for each in self.people if each is not owner)
        return UnitsTransferred(
            group_id=owner.id,
            owner_id=owner.id,
            transfer_id=self.uuid(),
            mode="amount",
            amount_units=5,
            legs=legs,
            total_units=5 * len(legs),
        )

    def _bounce(self) -> Message:
        accepted = self.random.choice(self.mailserver.accepted)
        return MailBounced(mail_id=_id_in(accepted.content), reason="mailbox_full")

    def _append(self, body: Message) -> None:
        self.publish(body.TOPICS[0], body, self.uuid())
        self.sent.append(body)

    # --- faults ---

    def _stop(self) -> None:
        """Have a replica stop in order, which leaves what is with the mail server."""
        process = self.random.choice(self.replicas)
        if not process.dead:
            self.tell("fault", process.name, "is told to stop")
            if (sending := self.sending.get(process.name)) is not None:
                process.post(sending.cancel)
            self.hub.after(0.5, process.kill)
            self.hub.after(1.0, partial(self.revive, process.name))

    def revive(self, name: str) -> None:
        if all(each.dead for each in self.replicas if each.name == name):
            super().revive(name)

    def _manners(self) -> None:
        self.mailserver.manners = Manners.any(self.random)
        self.tell("fault", "mail server", self.mailserver.manners)

    def _closed(self) -> None:
        """Have the mail server take no connections, or seem to be gone; or have it frozen."""
        seconds, port = self.random.choice([0.5, 3.0, 10.0]), self.mailserver.port
        how = self.random.choice(["refuses connections", "has vanished", "is frozen"])
        self.tell("fault", "mail server", f"{how} for {seconds} s")
        if how == "is frozen":
            self.mailserver.process.freeze(seconds, self.random.randint(0, 30))
        elif how == "has vanished":
            port.vanished_until = self.hub.now + seconds
        else:
            port.refuses_until = self.hub.now + seconds

    def _cut(self) -> None:
        """Cut connections to the mail server, any or all of them."""
        open_ = [end for end in self.mailserver.port.ends if not end.is_closing()]
        for end in open_ if self.random.random() < 0.3 else open_[:1]:
            self.tell("fault", end.peer.process.name, "loses its connection to the mail server")
            end.cut()

    def calm(self) -> None:
        super().calm()
        self.mailserver.manners = Manners()
        self.mailserver.port.refuses_until = self.mailserver.port.vanished_until = 0.0
        self.hub.after(self.longest_freeze_s, self._skip)

    def _skip(self) -> None:
        """Let the time pass after which nobody waits for a record any more, once all mails are written."""
        if any(map(self._next, self.handled)):
            self.hub.after(1.0, self._skip)
        else:
            self.hub.skip(RECIPIENT_WAIT)
            self.skipped = True

    # --- what must hold ---

    def _rows(self, table: str) -> dict[UUID, Any]:
        return self.server.contents.tables.get(table, {})

    def _look(self) -> None:
        """Note when whoever has been erased was."""
        erased = self._rows(ERASED.table.name)
        for human in self.named:
            if human.erased_at is None and human.id in erased:
                human.erased_at = self.hub.now
        self.hub.after(0.1, self._look)

    def _wrote(self, process: Process, data: bytes) -> None:
        """Look at what is said to the mail server, and by it."""
        if self.tell is not silent:
            self.tell("says", process.name, " / ".join(data.decode(errors="replace").split("\r\n")[:3]))
        if process is self.mailserver.process:
            return
        for human in self.named:
            if human.erased_at is None or human.name.encode() not in data:
                continue
            late = self.hub.now > human.erased_at + self.settings.mail_lease_s + LATE_S
            if late and process.frozen_until < human.erased_at:
                self.findings.append(f"{process.name} says the name of {human.id}, who was erased long ago")

    def unsettled(self) -> str:
        found = [f"{place[0]}/{place[1]} is not handled" for place in self.handled if self._next(place)]
        found += [
            f"{mail.id} is {mail.state}" for mail in self._rows(MAILS.table.name).values() if mail.state in UNDONE
        ]
        return "; ".join(found) if self.skipped else "some records may still arrive"

    def check(self) -> None:
        if unsettled := self.unsettled():
            self.findings.append(unsettled)
        self.findings += [f"deadlock about {cycle}" for cycle in self.server.locks.deadlocks]
        mails: dict[UUID, Mail] = self._rows(MAILS.table.name)
        erased, deliveries = self._rows(ERASED.table.name), self._rows(DELIVERIES.table.name)
        for letter in [letter for message in self.sent for letter in letters(message)]:
            if letter.id not in mails and letter.recipient_id not in erased:
                self.findings.append(f"{letter.template} {letter.id} was never written")
        accepted: defaultdict[UUID, list[Accepted]] = defaultdict(list)
        for each in self.mailserver.accepted:
            accepted[_id_in(each.content)].append(each)
        if unknown := accepted.keys() - mails.keys():
            self.findings.append(f"accepted, and not among the mails: {unknown}")
        emails = {human.id: human.emails for human in self.named}
        for mail in mails.values():
            told = f"{mail.template} {mail.id}, {mail.state}"
            got = accepted[mail.id]
            delivery = deliveries.get(mail.id) or Delivery(mail.id, None, None, 0, None, 0, None, None)
            self.findings += [f"{told}: {found}" for found in _counted(mail, delivery, len(got))]
            if any(
                _to(each.content) != each.recipient or each.recipient not in emails[mail.recipient_id] for each in got
            ):
                self.findings.append(f"{told}: went to somebody else")
            again = mail.template in _RENDERED_AGAIN or mail.about_id in erased
            if len({each.content for each in got}) > 1 and not again:
                self.findings.append(f"{told}: two attempts sent different bytes")


def _counted(mail: Mail, delivery: Delivery, accepted: int) -> Iterator[str]:
    """Compare how often a mail was accepted with what is recorded of its attempts."""
    if mail.state is MailState.SENT and delivery.sent_at is None:
        yield "nobody knows when"
    certain = int(delivery.sent_at is not None)
    unsure = delivery.uncertain + (delivery.in_flight_since is not None)
    if accepted < certain:
        yield "recorded as sent, and never accepted"
    if accepted > certain + unsure:
        yield f"accepted {accepted} times, recorded as sent {certain} times and as uncertain {unsure} times"


def _id_in(content: bytes) -> UUID:
    found = _MAIL_ID.search(content)
    assert found is not None
    return UUID(found[1].decode())


def _to(content: bytes) -> str:
    found = _TO.search(content)
    return found[1].decode() if found else ""


def _settings() -> NotificationsSettings:
    """Return a replica's settings."""
    given = {
        "kafka_bootstrap": "localhost:1",
        "kafka_username": "simulated",
        "kafka_password": "simulated",
        "database_url": "postgresql+psycopg://simulated:simulated@localhost:1/simulated",
        "smtp_host": HOST,
        "smtp_port": str(PORT),
    }
    return settings_from(
        NotificationsSettings, "simulated", {f"SIMULATED_{name.upper()}": value for name, value in given.items()}
    )


class _Log:
    """The sender's log, in which errors are findings: what it logs as one should never happen, but for one thing."""

    def __init__(self, findings: list[str]) -> None:
        self._findings = findings

    def info(self, *_: Any, **__: Any) -> None:
        pass

    warning = info

    def error(self, event: str, **told: Any) -> None:
        if event != "mail_abandoned":
            self._findings.append(f"logs {event}: {told}")
