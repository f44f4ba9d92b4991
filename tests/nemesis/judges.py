"""The judges of a run: each looks at one kind of evidence, once everything has settled, and says what is broken."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deploy.operator.invariants import (
    Logged,
    Snapshot,
    Violation,
    check,
    check_log,
    check_tokens,
    check_topics,
    published,
)
from popfax_contracts.groups import MembershipRecorded
from services.notifications.domain import MailState

Message = tuple[str, str, str]
"""A message's identity: its topic, source and id."""


@dataclass(frozen=True, slots=True)
class Breach:
    """What is broken: who says so, what it is about, and the figures."""

    judge: str
    subject: str
    detail: str

    def __str__(self) -> str:
        return f"{self.judge}: {self.subject}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A mail as notifications knows it."""

    state: str
    uncertain: int = 0
    """How often it may have been sent without an answer."""
    sent: bool = False
    """Whether the server's answer says so: a mail may be erased, or bounce, before that is recorded."""
    in_flight: bool = False
    """Whether an attempt has begun and no answer was recorded: nobody takes on a mail that has ended meanwhile."""

    def __str__(self) -> str:
        answer = "an answer says that it was sent" if self.sent else "no answer says that it was sent"
        return f"a {self.state} mail, {answer}, uncertain {self.uncertain} times{', in flight' * self.in_flight}"


@dataclass(slots=True)
class Evidence:
    """What a run has left behind."""

    log: Sequence[Logged]
    """The records of all topics since the beginning, each partition in order."""
    compacted: Sequence[Logged]
    """The compacted topics, read from their start."""
    snapshot: Snapshot
    acknowledged: Collection[Message]
    """What Kafka has acknowledged to whoever sent it."""
    kept: Mapping[str, int]
    """How often the mail sink has each mail, by its id."""
    deliveries: Mapping[str, Delivery]
    """Notifications' mails, by their ids."""
    faults_of_api: Sequence[str] = ()
    """Answers with which the API says that it has a fault."""


def judge(evidence: Evidence) -> list[Breach]:
    """Ask all judges."""
    return [
        *_said("databases", check(evidence.snapshot, settled=True)),
        *_said("log", check_log(evidence.log)),
        *_said("tokens", check_tokens(evidence.log, evidence.snapshot)),
        *_said("compacted topics", check_topics(published(evidence.compacted), evidence.snapshot)),
        *_memberships(evidence.log),
        *_acknowledged(evidence),
        *_mails(evidence),
        *(Breach("API", "a fault", said) for said in evidence.faults_of_api),
    ]


def _said(judge: str, violations: Iterable[Violation]) -> list[Breach]:
    return [Breach(judge, each.subject, f"{each.code} {each.detail}") for each in violations]


def _memberships(log: Iterable[Logged]) -> Iterator[Breach]:
    """Check that a membership's times are told in their order."""
    newest: dict[str, int] = {}
    told: set[str] = set()
    for record in log:
        if record.type != MembershipRecorded.TYPE or record.id in told:
            continue
        told.add(record.id)
        epoch = json.loads(record.value)["epoch"]
        if epoch <= newest.get(record.key, 0):
            yield Breach("log", record.key, f"time {epoch} of a membership is told after time {newest[record.key]}")
        newest[record.key] = epoch


def _acknowledged(evidence: Evidence) -> Iterator[Breach]:
    """Check that what Kafka has acknowledged is there."""
    there = {(record.topic, record.source, record.id) for record in evidence.log}
    for topic, _, id_ in sorted(set(evidence.acknowledged) - there):
        yield Breach("log", id_, f"was acknowledged on {topic}, and is not there")


def _mails(evidence: Evidence) -> Iterator[Breach]:
    """Check that each mail was sent once; once more at most for each time that no answer said whether it was."""
    for id_, mail in evidence.deliveries.items():
        copies = evidence.kept.get(id_, 0)
        least, most = int(mail.sent), mail.uncertain + (mail.sent or mail.in_flight)
        if not least <= copies <= most or (mail.state == MailState.SENT and not mail.sent):
            yield Breach("mails", id_, f"{mail}: has {copies} copies")
    for id_ in sorted(evidence.kept.keys() - evidence.deliveries.keys()):
        yield Breach("mails", id_, f"nobody knows of this mail, {evidence.kept[id_]} copies of which were sent")
