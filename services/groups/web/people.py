"""A member of an owner's group, of today or of before, as the owner is shown them."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.message import group_of
from services.groups.domain import AccountState
from services.groups.tables import memberships, subscribers
from services.groups.web.members import MOST_WORDS
from services.groups.web.queries import View, full_name


class KnownMember(View):
    """Somebody who is, or was, a member of the caller's own group.

    Of a former member the owner knows what they saw when the membership ended, and nothing of the account since.
    """

    member_id: UUID
    is_member: bool = Field(description="whether they are a member today")
    name: str | None
    email: str | None
    state: AccountState | None = Field(description="null for a former member, as are end and units")
    expires_at: AwareDatetime | None
    available_units: int | None
    epoch: int = Field(description="which of their memberships of this group it is, or was, counted from 1")
    joined_at: AwareDatetime
    ended_at: AwareDatetime | None


async def member(connection: AsyncConnection, owner_id: UUID, member_id: UUID) -> KnownMember | None:
    """Return somebody who is, or was, a member of the caller's own group; None for everybody else."""
    query = _known(owner_id).where(memberships.c.member_id == member_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else KnownMember.model_validate(row)


async def called(connection: AsyncConnection, owner_id: UUID, text: str, limit: int) -> Sequence[KnownMember]:
    """Return those whose name and address hold all words of a text, as members are searched; members of today first."""
    found = _known(owner_id).subquery()
    said = sa.func.folded(sa.func.concat_ws(" ", found.c.name, found.c.email))
    query = (
        sa.select(found)
        .where(*(sa.func.strpos(said, sa.func.folded(word)) > 0 for word in text.split()[:MOST_WORDS]))
        .order_by(found.c.is_member.desc(), sa.func.folded(found.c.name), found.c.member_id)
        .limit(limit)
    )
    return tuple(KnownMember.model_validate(row) for row in await connection.execute(query))


def _known(owner_id: UUID) -> sa.Select[tuple[object, ...]]:
    now = memberships.c.active
    return (
        sa.select(
            memberships.c.member_id,
            now.label("is_member"),
            sa.case((now, full_name(subscribers)), else_=memberships.c.shown_name).label("name"),
            sa.case((now, subscribers.c.email), else_=memberships.c.shown_email).label("email"),
            sa.case((now, sa.func.coalesce(subscribers.c.state, AccountState.ACTIVE.value))).label("state"),
            sa.case((now, subscribers.c.expires_at)).label("expires_at"),
            sa.case((now, sa.func.coalesce(subscribers.c.available_units, 0))).label("available_units"),
            memberships.c.epoch,
            memberships.c.joined_at,
            memberships.c.ended_at,
        )
        .outerjoin(subscribers, subscribers.c.id == memberships.c.member_id)
        .where(memberships.c.group_id == group_of(owner_id), memberships.c.epoch > 0)
    )
