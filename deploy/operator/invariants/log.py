"""The log: the records of all topics, each partition in order, and who learns what from them."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.snapshot import Snapshot
from popfax_contracts import groups, ledger, notifications, provisioning
from popfax_contracts.catalogue import COMMANDS, MESSAGES, is_declared
from popfax_contracts.message import Command, Message, Refusal, group_of
from popfax_contracts.topics import (
    LEDGER_BALANCES,
    LEDGER_EVENTS,
    NOTIFICATIONS_COMMANDS_FROM_GROUPS,
    PROVISIONING_COMMANDS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    TOPICS,
)
from services.chassis.envelopes import text_of, unusual
from services.chassis.messages import Record

_COMMANDS = frozenset(topic.name for topic in TOPICS if topic.commands)


@dataclass(frozen=True, slots=True)
class Logged:
    """A record on a topic, with the part of its envelope that invariants refer to."""

    topic: str
    partition: int
    offset: int
    key: str
    id: str
    type: str
    correlation_id: str
    causation_id: str | None
    value: bytes
    source: str = ""
    actor: str = ""


def logged(record: Record) -> Logged | None:
    """Read a record; None if its envelope is unusable, so that nothing can be checked."""
    given = dict(record.headers)
    value = record.value
    if "ce_type" not in given or len(given) != len(record.headers):
        given, value, _ = unusual(record.headers, value)
    if given.get("ce_type") is None or text_of(given.get("ce_id")) is None:
        return None
    headers = {name: text.decode(errors="replace") for name, text in given.items() if text is not None}
    return Logged(
        record.topic,
        record.partition,
        record.offset,
        (record.key or b"").decode(errors="replace"),
        headers["ce_id"],
        headers["ce_type"],
        headers.get("ce_correlationid", headers["ce_id"]),
        headers.get("ce_causationid"),
        value or b"",
        headers.get("ce_source", ""),
        headers.get("ce_actor", ""),
    )


def check_log(log: Iterable[Logged]) -> list[Violation]:
    """Check the records of all topics, each partition in order, once everything has settled."""
    records = list(log)
    first = _first_of_each_id(records)
    bought = _bought_with_units(first.values())
    return [
        *_contents(records, first),
        *_refusals(first.values()),
        *_partitions(records),
        *_outcomes(first.values()),
        *_purchases(first.values(), bought),
        *_answers(first.values(), bought),
        *_versions(first.values()),
        *_epochs(first.values()),
        *_lows(first.values()),
        *_exposures(first.values()),
    ]


def check_tokens(log: Iterable[Logged], snapshot: Snapshot) -> list[Violation]:
    """Check that each invitation is opened by the token that was mailed last."""
    mailed: dict[str, tuple[int, str]] = {}
    for record in log:
        if record.type == notifications.SendInvitation.TYPE:
            value = json.loads(record.value)
            latest = max(mailed.get(record.key, (0, "")), (value["round"], value["token"]))
            mailed[record.key] = latest
    return [
        Violation(Invariant.TOKEN_STALE, str(each.id), f"is not opened by the token of mail {each.round}")
        for each in snapshot.groups.invitations
        if (mail := mailed.get(str(each.id))) is not None and (mail[0] != each.round or not each.is_opened_by(mail[1]))
    ]


def check_actors(log: Iterable[Logged]) -> list[Violation]:
    """Check that what follows from a command at once was its actor's to command."""
    first = list(_first_of_each_id(log).values())
    given: defaultdict[str, list[Logged]] = defaultdict(list)
    mailed: defaultdict[str, set[str]] = defaultdict(set)
    for record in first:
        if record.type in _FOLLOWS:
            given[record.id].append(record)
        elif record.type == notifications.SendInvitation.TYPE:
            mailed[record.key].add(json.loads(record.value)["token"])
    found = []
    for record in first:
        causes = [each for each in given.get(record.causation_id or "", ()) if record.type in _FOLLOWS[each.type]]
        # An id may be used by several commands, on other topics: one of them was the cause.
        if causes and not any(_is_actors(each, json.loads(record.value), mailed) for each in causes):
            detail = f"{causes[0].type} by {causes[0].actor or 'nobody'}"
            found.append(Violation(Invariant.ACTOR_UNBOUND, record.id, f"{record.type} after {detail}"))
    return found


Identity = tuple[str, str, str]
"""What identifies a message: its topic, source and CloudEvents id."""


def _first_of_each_id(records: Iterable[Logged]) -> dict[Identity, Logged]:
    """Leave out repetitions: the first record of a message is the one that took effect."""
    found: dict[Identity, Logged] = {}
    for record in records:
        found.setdefault((record.topic, record.source, record.id), record)
    return found


def _contents(records: Iterable[Logged], first: Mapping[Identity, Logged]) -> Iterator[Violation]:
    for record in records:
        original = first[record.topic, record.source, record.id]
        # Other senders may repeat their commands with changes; what the services publish must not change.
        if record.topic not in _COMMANDS and (record.value, record.key) != (original.value, original.key):
            yield Violation(Invariant.CONTENT_CHANGED, record.id, f"{record.type} published again with other content")


def _refusals(records: Iterable[Logged]) -> Iterator[Violation]:
    for record in records:
        model = MESSAGES.get(record.type)
        # Topics of commands are written by others, who may write anything.
        if model is not None and issubclass(model, Refusal) and record.topic not in _COMMANDS:
            fields = json.loads(record.value)
            command_type, code = fields["command_type"], fields["code"]
            if not is_declared(model, command_type, code):
                yield Violation(
                    Invariant.REFUSAL_UNDECLARED, record.id, f"{record.type} of {command_type!r} with {code}"
                )


def _partitions(records: Iterable[Logged]) -> Iterator[Violation]:
    partitions: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for record in records:
        partitions[record.topic, record.key].add(record.partition)
    for (topic, key), found in partitions.items():
        if len(found) > 1:
            yield Violation(Invariant.KEY_ON_TWO_PARTITIONS, key, f"{topic} {sorted(found)}")


# --- answers ----------------------------------------------------------------------------------------------------------

DIRECT_ANSWERS: Mapping[str, str] = {
    topic.name: events.name
    for topic in TOPICS
    for events in (LEDGER_EVENTS, PROVISIONING_EVENTS)
    if topic.commands and topic.service is events.service
}
"""Topics whose commands are answered at once, under the command's own key, and the topics of the answers.

Purchases with units are the exception: they are answered once they are paid.
"""


def _types(*models: type[Message]) -> frozenset[str]:
    return frozenset(model.TYPE for model in models)


_ASKED = _types(*(event for model in COMMANDS.values() for event in model.outcomes()))
"""Events that answer a command. Others are caused by timers or operators, or accompany an answer."""

OUTCOMES: Mapping[str, frozenset[str]] = {
    type_: _types(*model.outcomes())
    for type_, model in COMMANDS.items()
    if model.ANSWERS and not any(topic.name in DIRECT_ANSWERS for topic in model.TOPICS)
}
"""Commands with one outcome, which has their correlation id: at once, or when a saga or the ledger is done."""

_BOUGHT = [model for model in COMMANDS.values() if model.REFUSAL is provisioning.PaidActionRefused]
_PURCHASES = _types(*_BOUGHT)
_PURCHASED = _types(*(event for model in _BOUGHT for event in model.outcomes()))
_MALFORMED = "command-malformed.v1"


def _outcomes(records: Iterable[Logged]) -> Iterator[Violation]:
    asked: Counter[str] = Counter()
    awaited: defaultdict[str, set[str]] = defaultdict(set)
    told: defaultdict[str, list[str]] = defaultdict(list)
    malformed: set[str] = set()
    for record in records:
        if record.type in OUTCOMES:
            asked[record.correlation_id] += 1
            awaited[record.correlation_id] |= OUTCOMES[record.type]
        elif record.type.endswith(_MALFORMED):
            malformed.add(record.correlation_id)
        elif not _is_of_an_order(record):
            told[record.correlation_id].append(record.type)
    for id_ in sorted(asked):
        answered = sum(type_ in awaited[id_] for type_ in told[id_])
        # An unreadable command gets only the answer "malformed", a command with an unreadable repetition gets both.
        least = 0 if id_ in malformed else asked[id_]
        if answered < least:
            yield Violation(Invariant.OUTCOME_MISSING, id_, f"asked {asked[id_]} times, {answered} outcomes")
        if answered > asked[id_]:
            yield Violation(Invariant.OUTCOME_TWICE, id_, f"asked {asked[id_]} times, {answered} outcomes")
    yield from _unasked_outcomes(asked, told)


def _is_of_an_order(record: Logged) -> bool:
    """Return whether a transfer was a standing order's: no command awaits it."""
    if record.type != groups.UnitsTransferred.TYPE or not record.value:
        return False
    return groups.UnitsTransferred.from_json(record.value).order_id is not None


_ALWAYS_ASKED = frozenset().union(*OUTCOMES.values()) - _types(
    groups.InvitationRevoked, groups.MemberLeft, groups.StandingOrderStopped
)
"""Outcomes that only a command can cause. The three that are left out have other causes, too."""


def _unasked_outcomes(asked: Counter[str], told: Mapping[str, list[str]]) -> Iterator[Violation]:
    for id_ in sorted(told.keys() - asked.keys()):
        if any(type_ in _ALWAYS_ASKED for type_ in told[id_]):
            yield Violation(Invariant.OUTCOME_TWICE, id_, "an outcome, and nobody asked")


def _bought_with_units(records: Iterable[Logged]) -> Mapping[str, Sequence[str]]:
    """Return the request ids of the purchases with units, by their correlation ids."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.topic == PROVISIONING_COMMANDS.name and record.type in _PURCHASES:
            try:
                fields = json.loads(record.value)
            except ValueError:
                continue  # unreadable, and answered as malformed
            if isinstance(fields, dict) and fields.get("price_units") is not None:
                found[record.correlation_id].append(str(fields.get("request_id")))
    return found


def _purchases(records: Iterable[Logged], bought: Mapping[str, Sequence[str]]) -> Iterator[Violation]:
    """Check purchases' outcomes. A request repeated while its saga runs has only the first one's."""
    asked: Counter[str] = Counter()
    told: Counter[str] = Counter()
    malformed: set[str] = set()
    for record in records:
        asked[record.correlation_id] += record.type in _PURCHASES
        if _is_of_purchase(record):
            told[record.correlation_id] += 1
        elif record.type.endswith(_MALFORMED):
            malformed.add(record.correlation_id)
    answered = {request for correlation, requests in bought.items() if told[correlation] for request in requests}
    for correlation, requests in bought.items():
        for request in requests:
            if request not in answered and correlation not in malformed:
                yield Violation(Invariant.OUTCOME_MISSING, correlation, f"a purchase, request {request}")
        if told[correlation] > asked[correlation]:
            yield Violation(Invariant.OUTCOME_TWICE, correlation, f"a purchase, {told[correlation]} outcomes")


def _is_of_purchase(record: Logged) -> bool:
    """Return whether an event is the outcome of a purchase, and not of what an owner pays for a member.

    Both have the correlation id that their sender chose, and it may be the same.
    """
    return record.type in _PURCHASED and json.loads(record.value).get("paid_by") is None


def _answers(records: Iterable[Logged], bought: Mapping[str, Sequence[str]]) -> Iterator[Violation]:
    commands: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    answers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    malformed: set[str] = set()
    for record in records:
        if record.type.endswith(_MALFORMED):
            malformed.add(record.causation_id or "")
        elif record.correlation_id in bought and (record.type in _PURCHASES or _is_of_purchase(record)):
            continue
        elif record.topic in DIRECT_ANSWERS:
            commands[record.topic, record.key].append(record.id)
        elif record.topic in DIRECT_ANSWERS.values() and record.type in _ASKED:
            answers[record.topic, record.key].append(record.causation_id or "")
    asked_on: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for topic, key in commands:
        asked_on[DIRECT_ANSWERS[topic], key].add(topic)
    for (topic, key), ids in commands.items():
        place = DIRECT_ANSWERS[topic], key
        # A command that became readable when it was retried is answered out of order. There is no order between
        # topics, and the answer to an id that was used on two topics can't be attributed to either.
        elsewhere = {id_ for other in sorted(asked_on[place] - {topic}) for id_ in commands[other, key]}
        left_out = malformed | elsewhere
        readable = [id_ for id_ in ids if id_ not in left_out]
        given = [id_ for id_ in answers[place] if id_ not in left_out]
        if missing := set(readable) - set(given):
            yield Violation(Invariant.ANSWER_MISSING, key, f"{topic}: {len(missing)} of {len(readable)}")
        elif given != readable:
            yield Violation(Invariant.OUT_OF_ORDER, key, f"{topic}: {readable} answered as {given}")


def _versions(records: Iterable[Logged]) -> Iterator[Violation]:
    newest: Counter[str] = Counter()
    for record in records:
        if record.type == ledger.BalanceChanged.TYPE:
            version = json.loads(record.value)["version"]
            if version <= newest[record.key]:
                yield Violation(Invariant.VERSION_NOT_RISING, record.key, f"{version} after {newest[record.key]}")
            newest[record.key] = version


def _epochs(records: Iterable[Logged]) -> Iterator[Violation]:
    named: dict[str, Mapping[str, int | None]] = {}
    ended: list[Logged] = []
    for record in records:
        if record.type == groups.DetachMembers.TYPE:
            named[record.id] = _named_epochs(record.value)
        elif record.type == groups.MemberLeft.TYPE:
            ended.append(record)
    for record in ended:
        left, meant = json.loads(record.value), named.get(record.causation_id or "", {})
        epoch = meant.get(left["member_id"])
        if epoch is not None and epoch != left["epoch"]:
            yield Violation(
                Invariant.EPOCH_IGNORED, left["member_id"], f"epoch {left['epoch']} ended, {epoch} was meant"
            )


def _lows(records: Iterable[Logged]) -> Iterator[Violation]:
    """Check that an owner is told of members who are low once a day at most."""
    told: Counter[tuple[str, str]] = Counter()
    for record in records:
        if record.type == notifications.SendMembersLow.TYPE:
            told[record.key, json.loads(record.value)["day"]] += 1
    for (group_id, day), count in told.items():
        if count > 1:
            yield Violation(Invariant.LOW_BALANCE_TWICE, group_id, f"{count} times on {day}")


def _named_epochs(value: bytes) -> Mapping[str, int | None]:
    try:
        command = groups.DetachMembers.from_json(value)
    except ValueError:
        return {}  # unreadable, so it ended no membership
    return {str(member.member_id): member.epoch for member in command.members}


# --- who may --------------------------------------------------------------------------------------------------------

_OF_AN_OWNER: Sequence[type[Command]] = (
    groups.RenameGroup,
    groups.SetLowBalance,
    groups.InviteByEmail,
    groups.RevokeInvitation,
    groups.DetachMembers,
    groups.SetStandingOrder,
    groups.StopStandingOrder,
    groups.CreateMemberAccount,
    groups.PayForMember,
    groups.TransferUnits,
)
_OF_A_HOLDER: Mapping[type[Command], str] = {
    ledger.SpendUnits: "account_id",
    ledger.PostTransfers: "source_id",
    provisioning.ChangeEmail: "account_id",
    provisioning.ChangeTimeZone: "account_id",
    provisioning.CloseAccount: "account_id",
    provisioning.DisableCallForwarding: "account_id",
    **dict.fromkeys(_BOUGHT, "account_id"),
}
"""Commands that only an account's holder may give, and the field that names the account."""
_OF_THE_INVITED: Sequence[type[Command]] = (groups.AcceptInvitation, groups.DeclineInvitation)

_ASKS: Mapping[type[Command], type[Message]] = {
    groups.CreateMemberAccount: ledger.ReserveUnits,
    groups.PayForMember: ledger.ReserveUnits,
    groups.TransferUnits: ledger.PostTransfers,
    **dict.fromkeys(_BOUGHT, ledger.ReserveUnits),
}
"""Commands that are not done at once, and what they lead to first. What is bought with money is anybody's to buy."""

_OF_ITS_ACTOR: Sequence[type[Command]] = (*_OF_AN_OWNER, *_OF_A_HOLDER, *_OF_THE_INVITED, groups.LeaveGroup)

_FOLLOWS: Mapping[str, frozenset[str]] = {
    model.TYPE: _types(_ASKS[model]) if model in _ASKS else _types(*model.ANSWERS) for model in _OF_ITS_ACTOR
}
"""What follows at once from a command that was its actor's to give, by type."""

_OWNERS_COMMANDS, _ANSWERS_OF_THE_INVITED = _types(*_OF_AN_OWNER), _types(*_OF_THE_INVITED)
_HOLDERS = {model.TYPE: name for model, name in _OF_A_HOLDER.items()}


def _is_actors(command: Logged, told: Mapping[str, Any], mailed: Mapping[str, set[str]]) -> bool:
    """Return whether a command was its actor's to give: an owner's, a holder's, a member's, or the invited person's."""
    try:
        fields = json.loads(command.value)
        actor = UUID(command.actor) if command.actor else None
    except ValueError:
        return False  # what can't be read has no effect
    if command.type in _OWNERS_COMMANDS:
        group_id = UUID(fields["group_id"])
        return actor is not None and {group_of(actor), UUID(told.get("group_id", fields["group_id"]))} == {group_id}
    if command.type in _HOLDERS:
        return actor is not None and actor == UUID(fields[_HOLDERS[command.type]])
    if command.type in _ANSWERS_OF_THE_INVITED:
        token = fields.get("token")
        opens = token in mailed[told["invitation_id"]] if token is not None else actor is not None
        return opens and actor in (None, UUID(told["subscriber_id"]))
    return actor is not None and actor == UUID(told["member_id"])


# --- who learns what --------------------------------------------------------------------------------------------------

_OWNERS_OWN = ("balance", "held", "available")
_WITH_TOKEN = _types(groups.AcceptInvitation, groups.DeclineInvitation)
_TOKEN = re.compile(rb"\b[0-9a-f]{64}\b")
_PERSON = re.compile(rb"@|\+[1-9][0-9]{5,14}")


def _exposures(records: Iterable[Logged]) -> Iterator[Violation]:
    for record in records:
        if _tells_token(record):
            yield Violation(Invariant.TOKEN_EXPOSED, record.id, record.type)
        if record.topic in _COMMANDS:
            continue
        if record.topic != PROVISIONING_DIRECTORY.name and _PERSON.search(record.value + b" " + record.key.encode()):
            yield Violation(Invariant.PERSON_EXPOSED, record.id, record.type)
        # Searching the bytes clears most records. The rest are parsed, as the word may be in a value.
        told = any(word.encode() in record.value for word in _OWNERS_OWN)
        if told and record.topic != LEDGER_BALANCES.name:
            for name, _ in _fields(json.loads(record.value)):
                if any(word in name for word in _OWNERS_OWN):
                    yield Violation(Invariant.OWNER_EXPOSED, record.id, f"{record.type} has {name}")


def _tells_token(record: Logged) -> bool:
    """Return whether a record may contain a token where it must not. A field of a token's digest doesn't count."""
    if (
        record.topic == NOTIFICATIONS_COMMANDS_FROM_GROUPS.name
        or record.type in _WITH_TOKEN
        or not _TOKEN.search(record.value)
    ):
        return False
    if record.type != notifications.PasswordLinkIssued.TYPE:
        return True
    fields = _fields(json.loads(record.value))
    return any(_TOKEN.search(str(value).encode()) for name, value in fields if name != "token_sha256")


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names of all fields, at every depth, each with its value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)
