"""Every message by its type: how a reader finds the model of a record, and a tool the list of them all."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from popfax_contracts.groups import GroupsCommand, GroupsEvent, GroupsMember
from popfax_contracts.ledger import LedgerBalance, LedgerCommand, LedgerEvent
from popfax_contracts.message import Message
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
