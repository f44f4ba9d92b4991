"""The load of a run: which commands are sent and when, as a function of the seed alone.

The simulation makes them. A story is a few owners and what they, their members and strangers ask for: the simulated
product, in which nothing goes wrong here, says who is a member by now and which invitations there are. Every id follows
from the id of a command, so what is meant there is meant in the real product, too, as far as that has got by then.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import merge
from itertools import count
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID

from popfax_contracts.groups import AcceptInvitation, DeclineInvitation, PayForMember, RenameGroup
from popfax_contracts.topics import Principal
from services.groups.commands import short_name
from services.provisioning.domain import Action, Option, Plan
from tests.simulation import commands
from tests.simulation.bus import Headers
from tests.simulation.commands import Sent
from tests.simulation.world import BEGINNING, World

PER_S = 12.0
"""Commands per second: light, for faults are what is tried here, not throughput."""
LANES = 6
"""Stories that are told side by side."""
STORY = 120
"""Commands of a story."""
AGAIN = 0.05
MALFORMED = 0.01
STRUCTURED = 0.3
"""The share of commands whose envelope and value are one JSON document (CloudEvents' structured mode)."""
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ASKED_EVERY_S = 1.5
"""How often somebody asks the API for something."""

PLANS = {
    "send_receive": Plan("send_receive", 12, 12, fax_number=True),
    "send_only": Plan("send_only", 6, 12, fax_number=False),
}
OPTIONS = {each: Option(each, 5) for each in (Action.OPTIONS_PACK.value, Action.CALL_FORWARDING.value)}
"""What is on sale, at prices that a story's owners can pay several times."""

_BY_US = (commands.sent_again, commands.malformed)
_DISGUISED = commands.hostile
"""Borrows ids that are on the topics at that moment: which these are, no seed knows of a real product."""
_CHOICES = [each for each in commands.COMMANDS if each[1] not in (*_BY_US, _DISGUISED)]
_NO_TOKEN = "0" * 64
_DOMAIN = b"@example.org"
_READ = ("units", "memberships", "invitations", "plans", "group", "group/members", "group/orders", "history")


@dataclass(frozen=True, slots=True)
class Sending:
    """A record that is sent to Kafka `at` so many seconds after the beginning.

    Moments in its value are the simulation's, which begins at `BEGINNING`.
    """

    at: float
    sent: Sent
    codec: str
    structured: bool = False
    token_of: str = ""
    """The invitation whose newest mailed token goes into the value: tokens are random."""

    @property
    def principal(self) -> Principal:
        """Return who sends it."""
        return self.sent.topic.writer


@dataclass(frozen=True, slots=True)
class Asking:
    """A request to the API, `at` so many seconds after the beginning, by a subscriber. Without a body, it reads."""

    at: float
    who: UUID
    path: str
    body: dict[str, Any] | None = None
    key: str = ""


class Calm(World):
    """The simulated product when nothing goes wrong, and what is sent to it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.sent: list[Sent] = []
        self.cast.plans, self.cast.options = dict(PLANS), dict(OPTIONS)

    def told(self, length: int) -> list[Sent]:
        """Go on until `length` commands were sent, and return them."""
        self._begin()
        while len(self.sent) < length:
            make = self.random.choices([make for _, make in _CHOICES], [weight for weight, _ in _CHOICES])[0]
            for each in make(self.cast):
                self._send(each)
            self.clock.now += timedelta(seconds=1)
            if self.random.random() < 0.5:
                self._run_dry(self.clock.now)
        return self.sent[:length]

    def malformed(self) -> Sequence[Sent]:
        """Return a command that can't be read."""
        return commands.malformed(self.cast)

    def _send(self, command: Sent) -> None:
        self.sent.append(command)
        self.bus.publish(command.topic, command.key, command.value, command.headers)


def sendings(seed: int, minutes: float, per_s: float = PER_S) -> Iterator[Sending]:
    """Yield what is sent to Kafka, in order. Made story by story, as it is asked for."""
    lanes = [_lane(seed, lane, per_s) for lane in range(LANES)]
    for each in merge(*lanes, key=attrgetter("at")):
        if each.at >= minutes * 60:
            return
        yield each


def askings(seed: int, minutes: float) -> Iterator[Asking]:
    """Yield what is asked of the API, in order: owners read what is theirs, and rename their groups."""
    random = Random(f"askings {seed}")
    owners = _owners(random)
    for number in range(int(minutes * 60 / ASKED_EVERY_S)):
        at, who = number * ASKED_EVERY_S, random.choice(owners)
        if random.random() < 0.3:
            key = str(UUID(int=random.getrandbits(128), version=4))
            path = f"/v1/commands/{short_name(RenameGroup.TYPE)}"
            yield Asking(at, who, path, {"name": f"Number {number}"}, key)
        else:
            yield Asking(at, who, f"/v1/{random.choice(_READ)}")


def registrations(seed: int) -> Iterator[Sent]:
    """Yield the commands that register whoever uses the API."""
    for number, who in enumerate(_owners(Random(f"askings {seed}"))):
        body = commands._registration(who, f"caller{number}@example.org")
        yield commands.sent(body, UUID(int=who.int ^ 1, version=4))


def _owners(random: Random) -> list[UUID]:
    return [UUID(int=random.getrandbits(128), version=4) for _ in range(4)]


def _lane(seed: int, lane: int, per_s: float) -> Iterator[Sending]:
    lasts_s = STORY * LANES / per_s
    for number in count():
        begins_s = number * lasts_s + lane / per_s
        for each in story(f"{seed}.{lane}.{number}", lasts_s):
            yield replace(each, at=begins_s + each.at)


def story(name: str, lasts_s: float) -> list[Sending]:
    """Return a story's records, by the seconds since its beginning."""
    random = Random(f"story {name}")
    world = Calm(random.getrandbits(63))
    found = []
    for number, command in enumerate(world.told(STORY)):
        each = _sending(number * lasts_s / STORY, command, random)
        found.append(each)
        if random.random() < AGAIN:
            found.append(replace(each, at=random.uniform(each.at, lasts_s), codec=random.choice(CODECS)))
        if random.random() < MALFORMED:
            found += [Sending(each.at, broken, random.choice(CODECS)) for broken in world.malformed()]
    domain = (
        f"@s{name}.example.org".encode()
    )  # stories share the real directory, and must not want each other's addresses
    there = (replace(each, sent=replace(each.sent, value=each.sent.value.replace(_DOMAIN, domain))) for each in found)
    return sorted(there, key=attrgetter("at"))


def _sending(at: float, command: Sent, random: Random) -> Sending:
    type_ = (dict(command.headers)["ce_type"] or b"").decode()
    token_of = ""
    if type_ in (AcceptInvitation.TYPE, DeclineInvitation.TYPE):
        fields = json.loads(command.value)
        token_of = fields["invitation_id"] if fields.get("token") not in (None, _NO_TOKEN) else ""
    elif type_ == PayForMember.TYPE:  # to the second, the real account's end is not the simulated one's
        fields = json.loads(command.value)
        fields.pop("expires_at", None)
        command = replace(command, value=json.dumps(fields).encode())
    return Sending(at, command, random.choice(CODECS), random.random() < STRUCTURED, token_of)


def value_now(sending: Sending, began: datetime, token: str | None) -> bytes:
    """Return the value as it is sent: with a token that was mailed, and by the real clock."""
    value = sending.sent.value
    if not (sending.token_of or b'"expires_at"' in value):
        return value
    try:
        fields = json.loads(value)
    except ValueError:
        return value
    if sending.token_of:
        fields["token"] = token or _NO_TOKEN
    if isinstance(ends := fields.get("expires_at"), str):
        fields["expires_at"] = (datetime.fromisoformat(ends) + (began - BEGINNING)).isoformat()
    return json.dumps(fields).encode()


def as_document(headers: Headers, value: bytes) -> tuple[Headers, bytes]:
    """Return a binary message in structured mode: one JSON document (CloudEvents' Kafka binding, 3.3)."""
    event: dict[str, Any] = {"specversion": "1.0", "datacontenttype": "application/json", "data": json.loads(value)}
    event |= {name.removeprefix("ce_"): (text or b"").decode() for name, text in headers}
    return [("content-type", b"application/cloudevents+json; charset=utf-8")], json.dumps(event).encode()
