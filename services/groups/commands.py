"""Commands that were posted over HTTP: what answers each, and the row that says what became of it.

Whoever posts a command can't follow Kafka. Every message carries the id of the command that began it, so what handlers
return is searched for the answer in one place, here. The platform's own commands have no row, and cost nothing.

Done means that the caller can see it. Balances and people's records arrive on other topics than the answer, and there
is no order between topics: so the answer names what it changed, up to which version, and the command is pending until
groups has received that. The subscribers' rows, which every balance locks anyway, say which command waits for what; the
command's own row counts what is missing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol
from uuid import UUID

from popfax_contracts.catalogue import COMMANDS
from popfax_contracts.groups import GroupsCommandMalformed, MemberAccountCreated
from popfax_contracts.ids import message_id
from popfax_contracts.ledger import (
    BalanceChanged,
    HoldCaptured,
    HoldReleased,
    TransfersPosted,
    TransfersRefused,
    UnitsRefused,
)
from popfax_contracts.message import Command, Event, Message, Refusal
from popfax_contracts.provisioning import AccountClosed, PersonRecorded
from popfax_contracts.topics import GROUPS_COMMANDS_FROM_HTTP, Principal
from services.chassis.messages import Effect, Incoming, Outcome, source_of
from services.chassis.rows import Rows
from services.chassis.service import AnyHandler, Moment
from services.groups.domain import Change, PostedCommand, Subscriber, saga_asked_by


def short_name(type_: str) -> str:
    """Return a type's short name, for addresses: `popfax.groups.invite-by-email.v1` is `invite-by-email`."""
    return type_.split(".")[2]


POSTABLE: Mapping[str, type[Command]] = {
    short_name(type_): model for type_, model in COMMANDS.items() if GROUPS_COMMANDS_FROM_HTTP in model.TOPICS
}
"""The commands that can be posted, by their short names."""

ANSWERING: frozenset[type[Message]] = frozenset(
    {
        *POSTABLE.values(),
        GroupsCommandMalformed,
        UnitsRefused,
        HoldReleased,
        HoldCaptured,
        TransfersPosted,
        TransfersRefused,
    }
)
"""What may bring the answer: the command itself, what can't be read of it, or the last reply of what it began."""

_KEPT = ("invitation_id", "member_id", "transfer_id", "total_units")
"""What is kept of an answer besides its type: ids with which the caller can continue."""


def saga_of_posted(id_: UUID) -> UUID:
    """Return the id of the saga that a posted `CreateMemberAccount` opens."""
    source = source_of(Principal.GROUPS).encode()
    return saga_asked_by(message_id(GROUPS_COMMANDS_FROM_HTTP.name, source, str(id_).encode()))


def content_hash(command: Command, actor_id: UUID) -> bytes:
    """Return what tells a repetition of a posted command from another one under the same id."""
    return sha256(b"\0".join((command.TYPE.encode(), actor_id.bytes, command.to_json()))).digest()


def _changed_by_transfer(posted: TransfersPosted) -> list[Change]:
    targets = (Change(leg.account_id, leg.version) for leg in posted.legs)
    return [Change(posted.source_id, posted.version), *targets]


def _changed_by_hold(closed: HoldCaptured | HoldReleased) -> list[Change]:
    return [Change(closed.account_id, closed.version)]


def _changed_by_creation(created: MemberAccountCreated) -> list[Change]:
    return [Change(created.member_id, None)]


_CHANGES: Mapping[type[Message], Callable[[Any], list[Change]]] = {
    TransfersPosted: _changed_by_transfer,
    HoldCaptured: _changed_by_hold,
    HoldReleased: _changed_by_hold,
    MemberAccountCreated: _changed_by_creation,
}
"""Which changes a reply or an answer reports that arrive on another topic. Everything else is in groups' own tables."""

SHOWING: frozenset[type[Message]] = frozenset({BalanceChanged, PersonRecorded, AccountClosed})
"""The messages with which a change arrives, or that say that it never will. Their key is the subscriber's id."""


def changed_by(message: Message) -> list[Change]:
    """Return the changes that a message reports and another topic brings."""
    find = _CHANGES.get(type(message))
    return [] if find is None else find(message)


def awaiting(subscribers: Iterable[Subscriber]) -> set[UUID]:
    """Return the commands that are waiting for a change of these subscribers."""
    return {Change.parse(each.id, line)[0] for each in subscribers for line in each.awaited}


class HasCommands(Protocol):
    """The state of a service to which commands can be posted."""

    @property
    def commands(self) -> Rows[UUID, PostedCommand]:
        """Return the commands that a batch may answer, or whose changes it may show."""

    @property
    def subscribers(self) -> Rows[UUID, Subscriber]:
        """Return the subscribers whose changes a batch may bring."""

    def posted(self, correlation_id: str) -> PostedCommand | None:
        """Return the command that began a message, if it was posted."""

    def subscriber(self, id_: UUID) -> Subscriber:
        """Return a subscriber, known or not."""


class NeedsCommands(Protocol):
    """The load plan of a service to which commands can be posted."""

    @property
    def answering(self) -> list[Incoming[Message]]:
        """Return the messages that may answer a posted command by correlation id."""


def answered(handlers: Mapping[type[Message], AnyHandler]) -> dict[type[Message], AnyHandler]:
    """Return the same handlers, which also record the outcome of a posted command, and when it can be seen."""
    return {
        model: noting(handler) if model in ANSWERING else _showing(handler) if model in SHOWING else handler
        for model, handler in handlers.items()
    }


def noting(handler: AnyHandler) -> AnyHandler:
    """Return a handler that also records the outcome of a posted command.

    Anybody may put any correlation id into a command: it says whose command began a message only together with the
    actor, which every message carries.
    """

    def handle(state: HasCommands, message: Incoming[Any], moment: Moment) -> Outcome:
        outcome = handler.handle(state, message, moment)
        command = state.posted(message.correlation_id)
        is_meant = command is not None and command.actor_id == message.actor
        if command is not None and is_meant and not command.is_answered:
            for effect in outcome:
                if (answer := _answer(command, effect)) is not None:
                    changes = [*changed_by(message.body), *changed_by(effect)]  # type: ignore[arg-type]
                    state.commands.put(answer.awaiting(_await(state, command, changes), moment.now))
                    break
        return outcome

    def with_command(load: NeedsCommands, message: Incoming[Any]) -> None:
        handler.needs(load, message)
        load.answering.append(message)

    return replace(handler, handle=handle, needs=with_command)


def _await(state: HasCommands, command: PostedCommand, changes: Iterable[Change]) -> int:
    """Record a command wherever one of its changes has not arrived yet; return how many those are."""
    unseen = [change for change in changes if not state.subscriber(change.subscriber_id).shows(change)]
    for change in unseen:
        known = state.subscriber(change.subscriber_id)
        state.subscribers.put(replace(known, awaited=(*known.awaited, change.line(command.id))))
    return len(unseen)


def _showing(handler: AnyHandler) -> AnyHandler:
    def handle(state: HasCommands, message: Incoming[Any], moment: Moment) -> Outcome:
        outcome = handler.handle(state, message, moment)
        known = state.subscriber(getattr(message.body, message.body.KEY))
        if known.awaited:
            _tell(state, known, moment)
        return outcome

    return replace(handler, handle=handle)


def _tell(state: HasCommands, known: Subscriber, moment: Moment) -> None:
    """Cross off the changes of a subscriber that have arrived. A command whose last change that was is complete."""
    unseen = []
    for line in known.awaited:
        command_id, change = Change.parse(known.id, line)
        if not known.shows(change):
            unseen.append(line)
        elif (
            command := state.commands.find(command_id)
        ) is not None:  # it may have been pruned, after a very long time
            state.commands.put(command.awaiting(command.awaits - 1, moment.now))
    state.subscribers.put(replace(known, awaited=tuple(unseen)))


def _answer(command: PostedCommand, effect: Effect) -> PostedCommand | None:
    """Return the command as an effect answers it, None if that is no answer to it."""
    if isinstance(effect, Refusal) and effect.command_type == command.type:
        return replace(command, code=effect.code)
    if isinstance(effect, COMMANDS[command.type].ANSWERS):
        return replace(command, result=_result(effect))
    return None


def _result(event: Event) -> dict[str, Any]:
    kept = event.model_dump(mode="json", include=set(_KEPT))
    return {"event": short_name(event.TYPE), **kept}
