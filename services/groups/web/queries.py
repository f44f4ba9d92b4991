"""Reads of groups' own database, each one statement or a few, whatever the number of rows.

Each takes who asks, and gives what is theirs to see. Of the owner of a group a member sees the name, and nothing else.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.message import group_of
from services.groups.commands import saga_of_posted, short_name
from services.groups.domain import AccountState, CommandState, InvitationState, sent_invitations_tally
from services.groups.tables import (
    commands,
    groups,
    history,
    invitations,
    low_balances,
    memberships,
    plans,
    sagas,
    standing_orders,
    subscribers,
    tallies,
)


class View(BaseModel):
    """Something that is shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Account(View):
    """What the caller's own account says."""

    state: AccountState
    expires_at: AwareDatetime | None = Field(description="when the account expires; null if never")
    available_units: int = Field(description="what can be spent now, as the ledger last told")


class Member(View):
    """A member of the caller's own group. Names and e-mail are none while the directory has not told them."""

    member_id: UUID
    first_name: str | None
    last_name: str | None
    email: str | None
    state: AccountState
    expires_at: AwareDatetime | None
    available_units: int
    epoch: int = Field(description="which of their memberships of this group it is, counted from 1")
    joined_at: AwareDatetime


class PendingInvitation(View):
    """An invitation into the caller's own group that nobody has answered yet. Who it is, they tell when they accept."""

    invitation_id: UUID
    email: str | None = Field(description="the address that the owner gave, whatever became of it")
    made_at: AwareDatetime
    expires_at: AwareDatetime


class LowBalance(View):
    """What the owner has said of members with few units."""

    below_units: int | None = Field(description="members with fewer units are low; null: nobody is")
    mail: bool = Field(description="whether the owner is mailed about members who become low, once a day at most")


class OwnGroup(View):
    """The caller's own group."""

    group_id: UUID
    name: str = Field(description="its own, or else its owner's; empty before anybody has told that")
    renamed: bool = Field(description="whether it has a name of its own")
    closed: bool = Field(description="whether the owner's account is closed, and the group with it")
    account: Account
    low_balance: LowBalance
    members_total: int = Field(description="how many members it has")
    invitations: tuple[PendingInvitation, ...]


class JoinedGroup(View):
    """Somebody else's group, of which the caller is a member."""

    group_id: UUID
    group_name: str
    owner_name: str
    epoch: int
    joined_at: AwareDatetime


class ReceivedInvitation(View):
    """An invitation that waits for the caller's answer."""

    invitation_id: UUID
    group_name: str
    owner_name: str
    made_at: AwareDatetime
    expires_at: AwareDatetime


class LinkedInvitation(View):
    """An invitation as its link leads to it. Who may see what of it, is for the page to say."""

    invitation_id: UUID
    subscriber_id: UUID
    state: InvitationState
    token_hash: bytes
    expires_at: AwareDatetime
    group_name: str
    owner_name: str
    language: str | None = Field(description="of whoever is invited")
    time_zone: str | None = Field(description="of whoever is invited")


class PlanOnSale(View):
    """A plan and its price today."""

    plan: str
    price_units: int
    validity_months: int


class Command(View):
    """What became of a command."""

    id: UUID
    type: str = Field(description="as it was posted, such as `invite-by-email`")
    state: CommandState
    code: str | None = Field(
        description="why it was refused: a code that the command's description lists, `malformed_command`, or `dropped`"
        " by an operator; more may come"
    )
    step: str | None = Field(description="what an account's creation waits for")
    result: dict[str, Any] | None = Field(description="`event`: how it was answered; and the ids that the answer names")
    asked_at: AwareDatetime
    ended_at: AwareDatetime | None


# --- the caller's own -------------------------------------------------------------------------------------------------


async def account(connection: AsyncConnection, subscriber_id: UUID) -> Account:
    """Return what the caller's own account says; one of whom nothing was told yet has nothing to spend."""
    query = sa.select(subscribers.c.state, subscribers.c.expires_at, subscribers.c.available_units).where(
        subscribers.c.id == subscriber_id
    )
    row = (await connection.execute(query)).one_or_none()
    return (
        Account.model_validate(row) if row else Account(state=AccountState.ACTIVE, expires_at=None, available_units=0)
    )


async def group_of_owner(connection: AsyncConnection, owner_id: UUID) -> OwnGroup:
    """Return the caller's own group; everybody has one, if nothing was done with it yet."""
    group_id = group_of(owner_id)
    query = sa.select(groups.c.name, groups.c.renamed, groups.c.closed_at).where(groups.c.id == group_id)
    group = (await connection.execute(query)).one_or_none()
    return OwnGroup(
        group_id=group_id,
        name=group.name if group else "",
        renamed=bool(group and group.renamed),
        closed=bool(group and group.closed_at),
        account=await account(connection, owner_id),
        low_balance=await low_balance(connection, owner_id),
        members_total=int((await connection.execute(_MEMBERS_TOTAL, {"group_id": group_id})).scalar_one()),
        invitations=await invitations_by(connection, owner_id),
    )


async def low_balance(connection: AsyncConnection, owner_id: UUID) -> LowBalance:
    """Return what the caller has said of members with few units."""
    query = sa.select(low_balances.c.below_units, low_balances.c.look_at.is_not(None).label("mail")).where(
        low_balances.c.group_id == group_of(owner_id)
    )
    row = (await connection.execute(query)).one_or_none()
    return LowBalance.model_validate(row) if row else LowBalance(below_units=None, mail=False)


async def name_of_group(connection: AsyncConnection, owner_id: UUID) -> str:
    """Return the name of the caller's own group; empty before anybody has told it."""
    query = sa.select(groups.c.name).where(groups.c.id == group_of(owner_id))
    return (await connection.execute(query)).scalar_one_or_none() or ""


async def invitations_by(connection: AsyncConnection, owner_id: UUID) -> tuple[PendingInvitation, ...]:
    """Return the pending invitations into the caller's own group, newest first."""
    rows = await connection.execute(_INVITATIONS_BY, {"group_id": group_of(owner_id)})
    return tuple(PendingInvitation.model_validate(row) for row in rows)


class KnownAddresses(View):
    """What the owner of a group can see anyway of some addresses, and how many they have asked about today."""

    own: str | None
    members: frozenset[str]
    invited: frozenset[str]
    asked_today: int


async def known_addresses(connection: AsyncConnection, owner_id: UUID, emails: Collection[str]) -> KnownAddresses:
    """Return which of these addresses are the owner's own, a member's, or of a pending invitation; and today's tally.

    Whether anybody else has one of them is not for this to say: to ask that is a command, and counts.
    """
    parameters = {
        "owner_id": owner_id,
        "group_id": group_of(owner_id),
        "emails": list(emails),
        "tally_id": sent_invitations_tally(owner_id),
        "today": datetime.now(UTC).date(),
    }
    row = (await connection.execute(_KNOWN_ADDRESSES, parameters)).one()
    return KnownAddresses(
        own=row.own,
        members=frozenset(row.members),
        invited=frozenset(row.invited),
        asked_today=row.asked_today or 0,
    )


async def memberships_of(connection: AsyncConnection, subscriber_id: UUID) -> tuple[JoinedGroup, ...]:
    """Return the groups of others that the caller is a member of, oldest first."""
    rows = await connection.execute(_MEMBERSHIPS_OF, {"subscriber_id": subscriber_id})
    return tuple(JoinedGroup.model_validate(row) for row in rows)


async def invitations_to(connection: AsyncConnection, subscriber_id: UUID) -> tuple[ReceivedInvitation, ...]:
    """Return the invitations that the caller can answer now, newest first."""
    rows = await connection.execute(_INVITATIONS_TO, {"subscriber_id": subscriber_id})
    return tuple(ReceivedInvitation.model_validate(row) for row in rows)


async def linked_invitation(connection: AsyncConnection, id_: UUID) -> LinkedInvitation | None:
    """Return the invitation of a link, whoever asks: what proves that they may see it is not checked here."""
    row = (await connection.execute(_LINKED_INVITATION, {"invitation_id": id_})).one_or_none()
    return None if row is None else LinkedInvitation.model_validate(row)


async def pending_address(connection: AsyncConnection, id_: UUID, owner_id: UUID) -> str | None:
    """Return the address of a pending invitation into the caller's own group; None without one, or if it is erased."""
    mine = (invitations.c.id == id_, invitations.c.group_id == group_of(owner_id), _PENDING)
    return (await connection.execute(sa.select(invitations.c.email).where(*mine))).scalar_one_or_none()


async def plans_on_sale(connection: AsyncConnection) -> tuple[PlanOnSale, ...]:
    """Return today's plans, the dearest first."""
    rows = await connection.execute(
        sa.select(plans).where(plans.c.on_sale).order_by(plans.c.price_units.desc(), plans.c.plan)
    )
    return tuple(PlanOnSale.model_validate(row) for row in rows)


async def command(connection: AsyncConnection, id_: UUID, actor_id: UUID) -> Command | None:
    """Return what became of a command of the caller's; None for somebody else's, as for one that was never posted."""
    return (await commands_of(connection, [id_], actor_id)).get(id_)


async def commands_of(connection: AsyncConnection, ids: Collection[UUID], actor_id: UUID) -> Mapping[UUID, Command]:
    """Return what became of those of these commands that are the caller's, by id."""
    parameters = {"ids": list(ids), "sagas": [saga_of_posted(id_) for id_ in ids], "actor_id": actor_id}
    rows = await connection.execute(_COMMANDS, parameters)
    return {row.id: _command(row) for row in rows}


def _command(row: sa.Row[Any]) -> Command:
    ended = row.ended_at is not None  # what is answered, and not yet to be seen, is nobody's answer yet
    return Command(
        id=row.id,
        type=short_name(row.type),
        state=CommandState(row.state),
        code=row.code if ended else None,
        step=None if ended else row.step,
        result=row.result if ended else None,
        asked_at=row.asked_at,
        ended_at=row.ended_at,
    )


# --- what a page shows, in one number ---------------------------------------------------------------------------------


async def fingerprints(connection: AsyncConnection, subscriber_ids: Collection[UUID]) -> Mapping[UUID, str]:
    """Return, by subscriber, a fingerprint of all that they are shown: it changes whenever that does."""
    ids = list(subscriber_ids)
    rows = await connection.execute(_FINGERPRINTS, {"ids": ids, "group_ids": [group_of(id_) for id_ in ids]})
    return {row.id: _word(row.fingerprint) for row in rows}


async def fingerprint(connection: AsyncConnection, subscriber_id: UUID, members: int) -> str:
    """Return the same for one, whose members were read, and hashed, before."""
    parameters = {"ids": [subscriber_id], "group_ids": [group_of(subscriber_id)], "members": members}
    return _word((await connection.execute(_FINGERPRINTS_BESIDE, parameters)).one().fingerprint)


def _word(number: int) -> str:
    return f"{number & 0xFFFFFFFFFFFFFFFF:016x}"


# Statements, made once.


def full_name(person: Any) -> sa.ColumnElement[str]:
    """Return a person's first and last name as one column; null while nobody has told either."""
    return sa.func.nullif(sa.func.concat_ws(" ", person.c.first_name, person.c.last_name), "")


def _hash(*columns: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.hash_record_extended(sa.func.row(*columns), sa.literal_column("0"), type_=sa.BigInteger)


def _hash_of_all(*columns: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.bit_xor(_hash(*columns)), sa.literal_column("0"), type_=sa.BigInteger)


_group_id = sa.bindparam("group_id", type_=sa.Uuid())
_subscriber_id = sa.bindparam("subscriber_id", type_=sa.Uuid())
_owner = subscribers.alias("owner")
_PENDING = invitations.c.state == "pending"

_asked = (
    sa.func.unnest(
        sa.bindparam("ids", type_=ARRAY(sa.Uuid())),
        sa.bindparam("sagas", type_=ARRAY(sa.Uuid())),
    )
    .table_valued(sa.column("id", sa.Uuid), sa.column("saga_id", sa.Uuid), name="asked")
    .render_derived()
)
_COMMANDS = (
    sa.select(commands, sagas.c.step)
    .select_from(_asked)
    .join(commands, commands.c.id == _asked.c.id)
    .outerjoin(sagas, sagas.c.id == _asked.c.saga_id)
    .where(commands.c.actor_id == sa.bindparam("actor_id", type_=sa.Uuid()))
)
_MEMBERS_TOTAL = (
    sa.select(sa.func.count()).select_from(memberships).where(memberships.c.group_id == _group_id, memberships.c.active)
)
_INVITATIONS_BY = (
    sa.select(
        invitations.c.id.label("invitation_id"), invitations.c.email, invitations.c.made_at, invitations.c.expires_at
    )
    .where(invitations.c.group_id == _group_id, _PENDING)
    .order_by(invitations.c.made_at.desc(), invitations.c.id)
)
_emails = sa.bindparam("emails", type_=ARRAY(sa.Text()))
_KNOWN_ADDRESSES = sa.select(
    sa.select(subscribers.c.email)
    .where(subscribers.c.id == sa.bindparam("owner_id", type_=sa.Uuid()))
    .scalar_subquery()
    .label("own"),
    sa.func.array(
        sa.select(subscribers.c.email)
        .join(memberships, memberships.c.member_id == subscribers.c.id)
        .where(subscribers.c.email == sa.any_(_emails), memberships.c.group_id == _group_id, memberships.c.active)
        .scalar_subquery()
    ).label("members"),
    sa.func.array(
        sa.select(invitations.c.email)
        .where(invitations.c.group_id == _group_id, _PENDING, invitations.c.email == sa.any_(_emails))
        .scalar_subquery()
    ).label("invited"),
    sa.select(tallies.c.today)
    .where(
        tallies.c.id == sa.bindparam("tally_id", type_=sa.Uuid()),
        tallies.c.day == sa.bindparam("today", type_=sa.Date()),
    )
    .scalar_subquery()
    .label("asked_today"),
)
_MEMBERSHIPS_OF = (
    sa.select(
        memberships.c.group_id,
        sa.func.coalesce(groups.c.name, "").label("group_name"),
        sa.func.coalesce(full_name(_owner), "").label("owner_name"),
        memberships.c.epoch,
        memberships.c.joined_at,
    )
    .outerjoin(groups, groups.c.id == memberships.c.group_id)
    .outerjoin(_owner, _owner.c.id == memberships.c.owner_id)
    .where(memberships.c.member_id == _subscriber_id, memberships.c.active)
    .order_by(memberships.c.joined_at, memberships.c.id)
)
_INVITATIONS_TO = (
    sa.select(
        invitations.c.id.label("invitation_id"),
        sa.func.coalesce(groups.c.name, "").label("group_name"),
        sa.func.coalesce(full_name(_owner), "").label("owner_name"),
        invitations.c.made_at,
        invitations.c.expires_at,
    )
    .outerjoin(groups, groups.c.id == invitations.c.group_id)
    .outerjoin(_owner, _owner.c.id == invitations.c.owner_id)
    .where(invitations.c.subscriber_id == _subscriber_id, _PENDING, invitations.c.expires_at > sa.func.now())
    .order_by(invitations.c.made_at.desc(), invitations.c.id)
)

_invited = subscribers.alias("invited")
_LINKED_INVITATION = (
    sa.select(
        invitations.c.id.label("invitation_id"),
        invitations.c.subscriber_id,
        invitations.c.state,
        invitations.c.token_hash,
        invitations.c.expires_at,
        sa.func.coalesce(groups.c.name, "").label("group_name"),
        sa.func.coalesce(full_name(_owner), "").label("owner_name"),
        _invited.c.language,
        _invited.c.time_zone,
    )
    .outerjoin(groups, groups.c.id == invitations.c.group_id)
    .outerjoin(_owner, _owner.c.id == invitations.c.owner_id)
    .outerjoin(_invited, _invited.c.id == invitations.c.subscriber_id)
    .where(invitations.c.id == sa.bindparam("invitation_id", type_=sa.Uuid()))
)

_caller = (
    sa.func.unnest(
        sa.bindparam("ids", type_=ARRAY(sa.Uuid())),
        sa.bindparam("group_ids", type_=ARRAY(sa.Uuid())),
    )
    .table_valued(sa.column("id", sa.Uuid), sa.column("group_id", sa.Uuid), name="caller")
    .render_derived()
)


def _part(*columns: sa.ColumnElement[Any], of: Any, where: Sequence[Any]) -> Any:
    return sa.select(_hash_of_all(*columns)).select_from(of).where(*where).correlate(_caller).scalar_subquery()


_newest_line = (
    sa.select(history.c.at)
    .where(history.c.group_id == _caller.c.group_id)
    .order_by(history.c.at.desc(), history.c.id.desc())
    .limit(1)
    .correlate(_caller)
    .scalar_subquery()
)
_SEEN_OF_MEMBER = (
    memberships.c.id,
    memberships.c.epoch,
    subscribers.c.first_name,
    subscribers.c.last_name,
    subscribers.c.email,
    subscribers.c.state,
    subscribers.c.expires_at,
    subscribers.c.available_units,
)


HASHED_MEMBERS = sa.func.bit_xor(_hash(*_SEEN_OF_MEMBER), type_=sa.BigInteger)
"""Members' part of a fingerprint, for a statement that reads all of them anyway."""


def _fingerprints(members: Any) -> sa.Select[Any]:
    """Return a statement for all that callers are shown; how their members are hashed is given."""
    return sa.select(
        _caller.c.id,
        _hash(
            _part(
                subscribers.c.state,
                subscribers.c.expires_at,
                subscribers.c.available_units,
                of=subscribers,
                where=[subscribers.c.id == _caller.c.id],
            ),
            _part(groups.c.name, groups.c.closed_at, of=groups, where=[groups.c.id == _caller.c.group_id]),
            _part(
                low_balances.c.below_units,
                low_balances.c.look_at.is_not(None),
                of=low_balances,
                where=[low_balances.c.group_id == _caller.c.group_id],
            ),
            _part(
                standing_orders.c.id,
                standing_orders.c.version,
                of=standing_orders,
                where=[standing_orders.c.group_id == _caller.c.group_id],
            ),
            members,
            _part(
                invitations.c.id,
                invitations.c.round,
                of=invitations,
                where=[invitations.c.group_id == _caller.c.group_id, _PENDING],
            ),
            _part(
                memberships.c.id,
                memberships.c.epoch,
                groups.c.name,
                of=memberships.outerjoin(groups, groups.c.id == memberships.c.group_id),
                where=[memberships.c.member_id == _caller.c.id, memberships.c.active],
            ),
            _part(
                invitations.c.id,
                invitations.c.round,
                of=invitations,
                where=[invitations.c.subscriber_id == _caller.c.id, _PENDING],
            ),
            _part(
                commands.c.id,
                of=commands,
                where=[commands.c.actor_id == _caller.c.id, commands.c.state == CommandState.PENDING.value],
            ),
            _newest_line,
        ).label("fingerprint"),
    ).select_from(_caller)


_FINGERPRINTS = _fingerprints(
    _part(
        *_SEEN_OF_MEMBER,
        of=memberships.outerjoin(subscribers, subscribers.c.id == memberships.c.member_id),
        where=[memberships.c.group_id == _caller.c.group_id, memberships.c.active],
    )
)
_FINGERPRINTS_BESIDE = _fingerprints(sa.bindparam("members", type_=sa.BigInteger()))
"""A line of the history that ends changes one of the others too: what somebody has, who is a member, who is invited;
or what waits for its end."""
