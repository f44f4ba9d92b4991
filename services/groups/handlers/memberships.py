"""How memberships end: the owner detaches, or the member leaves."""

from popfax_contracts.codes import GroupsCode
from popfax_contracts.groups import (
    DetachMembers,
    Detachment,
    DetachmentRefused,
    LeaveGroup,
    LeaveRefused,
    MembersDetached,
)
from services.chassis.messages import Effect, Incoming, Outcome
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import Membership, membership_of
from services.groups.handlers.ownership import owner_of, why_not_owner
from services.groups.store import LoadPlan, Roster


def _members(load: LoadPlan, message: Incoming[DetachMembers]) -> None:
    command = message.body
    load.groups.add(command.group_id)
    load.memberships.update(membership_of(command.group_id, member.member_id) for member in command.members)
    load.subscribers.update(member.member_id for member in command.members)
    load.leaving = True


@needs(_members)
def detach_members(roster: Roster, message: Incoming[DetachMembers], moment: Moment) -> Outcome:
    """End the memberships that the owner names, each independently."""
    command = message.body
    code = why_not_owner(roster, message, command.group_id)
    if code is not None:
        return [DetachmentRefused(group_id=command.group_id, code=code, command_type=command.TYPE)]
    effects: list[Effect] = []
    outcomes: list[Detachment] = []
    for named in command.members:
        member = roster.memberships.find(membership_of(command.group_id, named.member_id))
        if member is not None and is_meant(member, named.epoch):
            effects += transitions.leave(roster, member, "detached", moment)
            outcomes.append(Detachment(member_id=named.member_id, outcome="detached"))
        else:
            outcomes.append(Detachment(member_id=named.member_id, outcome="not_member"))
    told = MembersDetached(group_id=command.group_id, owner_id=owner_of(message), outcomes=tuple(outcomes))
    return [told, *effects]


def _own_membership(load: LoadPlan, message: Incoming[LeaveGroup]) -> None:
    if message.actor is not None:
        load.groups.add(message.body.group_id)
        load.subscribers.add(message.actor)
        load.memberships.add(membership_of(message.body.group_id, message.actor))
        load.leaving = True


@needs(_own_membership)
def leave_group(roster: Roster, message: Incoming[LeaveGroup], moment: Moment) -> Outcome:
    """End the actor's own membership."""
    command = message.body
    member = None
    if message.actor is not None:
        member = roster.memberships.find(membership_of(command.group_id, message.actor))
    if member is None or not is_meant(member, command.epoch):
        return [LeaveRefused(group_id=command.group_id, code=GroupsCode.NOT_MEMBER, command_type=command.TYPE)]
    return transitions.leave(roster, member, "left", moment)


def is_meant(member: Membership, epoch: int | None) -> bool:
    """Return whether a message means this membership: a late one that names an epoch must not touch a later one."""
    return member.active and epoch in (None, member.epoch)
