"""Who may act for a group."""

from typing import Any
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.message import group_of
from services.chassis.messages import Incoming
from services.groups.store import Roster


def why_not_owner(roster: Roster, message: Incoming[Any], group_id: UUID) -> GroupsCode | None:
    """Return why the actor may not act as the owner, None if they may."""
    if message.actor is None or group_of(message.actor) != group_id:
        return GroupsCode.NOT_OWNER
    return GroupsCode.GROUP_CLOSED if roster.is_closed(group_id) else None


def owner_of(message: Incoming[Any]) -> UUID:
    """Return the actor, whom `why_not_owner` has found to be the owner."""
    assert message.actor is not None, "an owner is somebody"
    return message.actor
