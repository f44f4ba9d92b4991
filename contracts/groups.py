"""Groups: what the platform asks on an owner's behalf, and the membership events that anyone inside may follow."""

from typing import Literal
from uuid import UUID

from contracts.fields import Email, Language, Name, PlanName, Units
from contracts.message import Command, Event, MalformedCommand, Refusal
from contracts.topics import GROUPS_COMMANDS, GROUPS_EVENTS


class CreateMemberAccount(
    Command, type="popfax.groups.create-member-account.v1", topic=GROUPS_COMMANDS, key="group_id"
):
    """Create an account for a new member of the actor's group, paid with the actor's own units.

    `price_units` is the price that the owner was shown. Answered by `MemberAccountCreated` and `MemberJoined`; refused
    by `MemberAccountRefused`.
    """

    group_id: UUID
    plan: PlanName
    price_units: Units
    email: Email
    first_name: Name
    last_name: Name
    language: Language


class MemberAccountCreated(Event, type="popfax.groups.member-account-created.v1", topic=GROUPS_EVENTS, key="group_id"):
    """The account exists, is paid, and is a member: the end of a `CreateMemberAccount`, for the owner's side."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    plan: PlanName
    price_units: Units


class MemberAccountRefused(
    Refusal, type="popfax.groups.member-account-refused.v1", topic=GROUPS_EVENTS, key="group_id"
):
    """No account, no payment, no membership.

    Codes, in the order in which they are looked for: `not_owner`, `unknown_plan`, `price_changed`, `already_member`,
    `email_taken` (all before anything is asked of others), `units_short`, `timed_out`, `cancelled`, `no_fax_number`,
    `id_conflict`.
    """

    group_id: UUID


class MemberJoined(Event, type="popfax.groups.member-joined.v1", topic=GROUPS_EVENTS, key="group_id"):
    """A subscriber is now a member of a group. `epoch` counts their memberships of this group, from 1."""

    group_id: UUID
    owner_id: UUID
    member_id: UUID
    epoch: int
    via: Literal["account_created"]


class GroupsCommandMalformed(
    MalformedCommand, type="popfax.groups.command-malformed.v1", topic=GROUPS_EVENTS, key="command_id"
):
    """A command on `popfax.groups.commands` could not be read."""


GroupsCommand = CreateMemberAccount
GroupsEvent = MemberAccountCreated | MemberAccountRefused | MemberJoined | GroupsCommandMalformed
