"""Commands that were posted over HTTP: what answers each, and the row that says what became of it.

Whoever posts a command can't follow Kafka. Every message carries the id of the command that began it, so what handlers
return is looked through for the answer in one place, here. The platform's own commands have no row, and cost nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, Protocol

from contracts.groups import (
    AcceptInvitation,
    AccountCreationRequired,
    CreateMemberAccount,
    DeclineInvitation,
    DetachMembers,
    GroupRenamed,
    InvitationAccepted,
    InvitationDeclined,
    InvitationRevoked,
    InvitationSent,
    InviteByEmail,
    LeaveGroup,
    MemberAccountCreated,
    MemberLeft,
    MembersDetached,
    RenameGroup,
    RevokeInvitation,
    TransferUnits,
    UnitsTransferred,
)
from contracts.ledger import HoldCaptured, HoldReleased, TransfersPosted, TransfersRefused, UnitsRefused
from contracts.message import Command, Event, Message, Refusal
from services._platform.messages import Effect, Incoming, Outcome
from services._platform.service import Handler, Moment
from services.groups.domain import CommandState, PostedCommand

ANSWERS: Mapping[type[Command], tuple[type[Event], ...]] = {
    CreateMemberAccount: (MemberAccountCreated,),
    RenameGroup: (GroupRenamed,),
    InviteByEmail: (InvitationSent, AccountCreationRequired),
    AcceptInvitation: (InvitationAccepted,),
    DeclineInvitation: (InvitationDeclined,),
    RevokeInvitation: (InvitationRevoked,),
    DetachMembers: (MembersDetached,),
    LeaveGroup: (MemberLeft,),
    TransferUnits: (UnitsTransferred,),
}
"""The commands that can be posted, and the events each of which means that one is done. A refusal names its command."""

ANSWERING: frozenset[type[Message]] = frozenset(
    {*ANSWERS, UnitsRefused, HoldReleased, HoldCaptured, TransfersPosted, TransfersRefused}
)
"""What may bring the answer: the command itself, or the last reply of what it began."""

_KEPT = ("invitation_id", "member_id", "transfer_id", "total_units")
"""What is kept of an answer beside its type: ids, so that whoever asked can go on."""


def short_name(type_: str) -> str:
    """Give what a type is called in an address: `popfax.groups.invite-by-email.v1` is `invite-by-email`."""
    return type_.split(".")[2]


POSTABLE: Mapping[str, type[Command]] = {short_name(model.TYPE): model for model in ANSWERS}
"""The commands that can be posted, by their short names."""

_ANSWERS_TO = {model.TYPE: answers for model, answers in ANSWERS.items()}


class HasCommands(Protocol):
    """The state of a service to which commands can be posted."""

    def posted(self, correlation_id: str) -> PostedCommand | None:
        """Give the command that began a message, if it was posted."""

    def note(self, command: PostedCommand) -> None:
        """Keep what became of a command."""


def answered(handlers: Mapping[type[Message], Handler]) -> dict[type[Message], Handler]:
    """Give the same handlers, which also note what became of a posted command."""
    return {model: _noting(handler) if model in ANSWERING else handler for model, handler in handlers.items()}


def _noting(handler: Handler) -> Handler:
    @wraps(handler)
    def handle(state: HasCommands, message: Incoming[Any], moment: Moment) -> Outcome:
        outcome = handler(state, message, moment)
        command = state.posted(message.correlation_id)
        if command is not None and command.state is CommandState.PENDING:
            for effect in outcome:
                if (ended := _ended(command, effect, moment)) is not None:
                    state.note(ended)
                    break
        return outcome

    return handle


def _ended(command: PostedCommand, effect: Effect, moment: Moment) -> PostedCommand | None:
    """Give the command as an effect leaves it, None if that is no answer to it."""
    if isinstance(effect, Refusal) and effect.command_type == command.type:
        return replace(command, state=CommandState.REFUSED, code=effect.code, ended_at=moment.now)
    if isinstance(effect, _ANSWERS_TO[command.type]):
        return replace(command, state=CommandState.DONE, result=_result(effect), ended_at=moment.now)
    return None


def _result(event: Event) -> dict[str, Any]:
    kept = event.model_dump(mode="json", include=set(_KEPT))
    return {"event": short_name(event.TYPE), **kept}
