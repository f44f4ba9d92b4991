"""Every message by its type: a reader finds a record's model here, and a tool the list of all messages."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from popfax_contracts.codes import MalformedCode, RefusalCode
from popfax_contracts.groups import GroupsCommand, GroupsEvent, GroupsMember
from popfax_contracts.ledger import LedgerBalance, LedgerCommand, LedgerEvent
from popfax_contracts.message import Command, MalformedCommand, Message, Refusal
from popfax_contracts.notifications import NotificationsCommand, NotificationsEvent
from popfax_contracts.provisioning import ProvisioningCommand, ProvisioningEvent, ProvisioningPerson, ProvisioningPlan

_UNIONS: tuple[Any, ...] = (
    GroupsCommand,
    GroupsEvent,
    GroupsMember,
    LedgerCommand,
    LedgerEvent,
    LedgerBalance,
    NotificationsCommand,
    NotificationsEvent,
    ProvisioningCommand,
    ProvisioningEvent,
    ProvisioningPerson,
    ProvisioningPlan,
)


def _index() -> Mapping[str, type[Message]]:
    messages: dict[str, type[Message]] = {}
    for union in _UNIONS:
        for model in get_args(union) or (union,):
            if model.TYPE in messages:
                raise TypeError(f"{model.TYPE} is the type of two messages")
            messages[model.TYPE] = model
    return MappingProxyType(messages)


MESSAGES: Mapping[str, type[Message]] = _index()

COMMANDS: Mapping[str, type[Command]] = MappingProxyType(
    {type_: model for type_, model in MESSAGES.items() if issubclass(model, Command)}
)
"""The commands among them."""


def codes_of(refusal: type[Refusal]) -> tuple[RefusalCode, ...]:
    """Return the codes that a refusal may carry: those of every command that is refused by it, each once."""
    if issubclass(refusal, MalformedCommand):
        return tuple(MalformedCode)
    return tuple(dict.fromkeys(code for model in COMMANDS.values() if model.REFUSAL is refusal for code in model.CODES))


def is_declared(refusal: type[Refusal], command_type: str, code: str) -> bool:
    """Return whether commands of a type say that they may be refused by this event, with this code."""
    if issubclass(refusal, MalformedCommand):
        return code in tuple(MalformedCode)
    command = COMMANDS.get(command_type)
    return command is not None and refusal is command.REFUSAL and code in command.CODES
