"""The compacted topics: reading one from its start yields what the databases say."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from heapq import merge
from operator import itemgetter
from typing import Any

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.log import Logged
from deploy.operator.invariants.rows import Keyed, by, each, in_order, merge_join, only
from deploy.operator.invariants.snapshot import OutboxRow, Snapshot
from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.groups import MembershipRecorded
from popfax_contracts.ledger import BalanceChanged
from popfax_contracts.message import Message
from popfax_contracts.provisioning import OptionPublished, PersonRecorded, PlanPublished
from popfax_contracts.topics import GROUPS_MEMBERS, LEDGER_BALANCES, PROVISIONING_DIRECTORY, PROVISIONING_PLANS
from services.provisioning.domain import AccountState, Option, Plan

Place = tuple[str, str]
"""A topic and a key."""


@dataclass(frozen=True, slots=True)
class Published:
    """A record of a compacted topic, with its content as text: None for a tombstone."""

    partition: int
    offset: int
    text: str | None


def published(log: Iterable[Logged]) -> Keyed[Published]:
    """Sort the records of compacted topics by key. Reads the whole log at once, in bounded memory."""
    return in_order(((record.topic, record.key), _published(record)) for record in log if record.topic in _SAYS)


def check_topics(records: Keyed[Published], snapshot: Snapshot, moving: Collection[Place] = ()) -> Iterator[Violation]:
    """Check the records that `published` has sorted against the databases.

    The newest record of each key must equal the row, unless another is still in an outbox. `moving` are the keys that
    had further records while the databases were read: they are not checked.
    """
    return each(merge_join(records, _are(snapshot), _unsent(snapshot)), _compared, moving)


def _compared(
    place: Place,
    records: Iterator[Published],
    rows: Iterator[str],
    unsent: Iterator[OutboxRow],
    moving: Collection[Place],
) -> Iterator[Violation]:
    topic, key = place
    found = list(records)
    partitions = {record.partition for record in found}
    if len(partitions) > 1:
        yield Violation(Invariant.KEY_ON_TWO_PARTITIONS, key, f"{topic} {sorted(partitions)}")
        return
    if place in moving or any(True for _ in unsent):
        return
    newest = max(found, key=lambda record: record.offset).text if found else None
    if newest != (is_ := only(rows)):
        yield Violation(
            Invariant.TOPIC_MISMATCH, key, f"{topic} tells {newest or 'nothing'}, and it is {is_ or 'nothing'}"
        )


# --- the records, and the rows ----------------------------------------------------------------------------------------


def _published(record: Logged) -> Published:
    """Read a record. The text of an unreadable one equals no row's."""
    text: str | None = "what can't be read"
    model = _MODELS.get(record.type)
    if model is not None:
        try:
            says = _SAYS[record.topic]
            text = None if model.TOMBSTONE else says(model.from_record(record.key.encode(), record.value))
        except (ValueError, AttributeError):
            pass
    return Published(record.partition, record.offset, text)


def _balance(told: BalanceChanged) -> str:
    return f"version {told.version}: {told.balance_units}, {told.available_units} available"


def _member(told: MembershipRecorded) -> str:
    return f"{told.member_id} in {told.group_id} of {told.owner_id}, time {told.epoch} since {_stamp(told.joined_at)}"


def _plan(plan: PlanPublished | Plan) -> str:
    months, number = plan.validity_months, plan.fax_number
    return f"plan {plan.plan} for {plan.price_units}, {months} months, number {number}, on sale {plan.on_sale}"


def _option(name: str, option: OptionPublished | Option) -> str:
    return f"option {name} for {option.price_units}, on sale {option.on_sale}"


def _on_sale(told: PlanPublished | OptionPublished) -> str:
    if isinstance(told, OptionPublished):
        return _option(told.option, told)
    return _plan(told)


def _person(told: PersonRecorded) -> str:
    return _digest(told.email, told.first_name, told.last_name, told.language, told.fax_number, told.time_zone)


def _digest(*who: str | None) -> str:
    """Return a digest of personal data, so that no violation contains the data itself."""
    return (
        "a person with the digest "
        + blake2b(repr([each and str(each) for each in who]).encode(), digest_size=8).hexdigest()
    )


def _stamp(moment: datetime | None) -> str:
    return "ever" if moment is None else moment.astimezone(UTC).isoformat()


_SAYS: Mapping[str, Callable[[Any], str]] = {
    GROUPS_MEMBERS.name: _member,
    LEDGER_BALANCES.name: _balance,
    PROVISIONING_DIRECTORY.name: _person,
    PROVISIONING_PLANS.name: _on_sale,
}
_MODELS: Mapping[str, type[Message]] = {
    type_: model for type_, model in MESSAGES.items() if any(topic.name in _SAYS for topic in model.TOPICS)
}
"""The messages of these topics. A marker is a tombstone whose key belongs to nothing, so it matches "no row"."""


def _are(snapshot: Snapshot) -> Iterator[tuple[Place, str]]:
    """Yield what the databases say, in the order of topics and keys."""
    streams = {
        GROUPS_MEMBERS.name: _members(snapshot),
        LEDGER_BALANCES.name: _balances(snapshot),
        PROVISIONING_DIRECTORY.name: _people(snapshot),
        PROVISIONING_PLANS.name: merge(_plans(snapshot), _options(snapshot), key=itemgetter(0)),
    }
    for topic in sorted(streams):
        for key, text in streams[topic]:
            yield (topic, str(key)), text


def _members(snapshot: Snapshot) -> Keyed[str]:
    for id_, row in by(snapshot.groups.memberships, "id"):
        if row.active:
            since = _stamp(row.joined_at)
            yield id_, f"{row.member_id} in {row.group_id} of {row.owner_id}, time {row.epoch} since {since}"


def _balances(snapshot: Snapshot) -> Keyed[str]:
    for id_, row in by(snapshot.ledger.accounts, "id"):
        if row.revision:
            yield id_, f"version {row.revision}: {row.balance_units}, {row.available_units} available"


def _people(snapshot: Snapshot) -> Keyed[str]:
    for id_, row in by(snapshot.provisioning.subscribers, "id"):
        if row.state is not AccountState.CLOSED:
            yield id_, _digest(row.email, row.first_name, row.last_name, row.language, row.fax_number, row.time_zone)


def _plans(snapshot: Snapshot) -> Keyed[str]:
    for name, row in by(snapshot.provisioning.plans, "plan"):
        yield name, _plan(row)


def _options(snapshot: Snapshot) -> Keyed[str]:
    for name, row in by(snapshot.provisioning.options, "option"):
        yield name, _option(row.option, row)


def _unsent(snapshot: Snapshot) -> Keyed[OutboxRow]:
    """Return the outboxes' messages for these topics, in the order of topics and keys."""
    services = (snapshot.groups, snapshot.ledger, snapshot.provisioning)
    return in_order(
        ((_MODELS[row.type].TOPICS[0].name, row.key), row)
        for service in services
        for row in service.outbox
        if row.type in _MODELS
    )
