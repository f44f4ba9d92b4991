"""What an owner can pay for members, as it is known now: who it can be paid for, at which price, until when."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.codes import GroupsCode
from popfax_contracts.dates import months_later
from popfax_contracts.message import group_of
from services.groups.domain import AccountState
from services.groups.tables import memberships, options, plans, subscribers

Action = Literal["extension", "options_pack"]

PRICE_UNKNOWN = "price_unknown"
"""Why an extension can't be paid for whose plan nobody has told: that is told 30 days before the end at the latest."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What can be paid for one member; or, with `code`, why it can't."""

    member_id: UUID
    epoch: int
    name: str
    old_end: datetime | None
    new_end: datetime | None
    price_units: int
    code: str | None = None


async def offers(
    connection: AsyncConnection, owner_id: UUID, member_ids: Collection[UUID], action: Action, now: datetime
) -> tuple[Offer, ...]:
    """Return what can be paid for these members of the caller's own group, in the order of the list."""
    rows = await connection.execute(_PAYABLE, {"group_id": group_of(owner_id), "ids": list(member_ids)})
    return tuple(_offer(row, action, now) for row in rows)


def _offer(row: Any, action: Action, now: datetime) -> Offer:
    is_expired = row.state == AccountState.EXPIRED or (row.expires_at is not None and row.expires_at <= now)
    new_end, price, code = None, 0, None
    if action == "options_pack":
        price = row.option_price or 0
        if row.options_pack:
            code = GroupsCode.ALREADY_ADDED.value
        elif is_expired:
            code = GroupsCode.TARGET_EXPIRED.value
        elif not price:
            code = GroupsCode.NOT_ON_SALE.value
    elif row.expires_at is None:
        code = GroupsCode.NO_PLAN.value
    elif row.plan_price is None:
        code = PRICE_UNKNOWN
    else:
        price = row.plan_price
        new_end = months_later(max(now, row.expires_at), row.validity_months)
        code = None if new_end is not None else GroupsCode.TOO_FAR_AHEAD.value
    old_end = row.expires_at if action == "extension" else None
    return Offer(row.member_id, row.epoch, row.name or row.email or "", old_end, new_end, price, code)


_OPTION = options.alias("option_on_sale")
_PAYABLE = (
    sa.select(
        memberships.c.member_id,
        memberships.c.epoch,
        sa.func.nullif(sa.func.concat_ws(" ", subscribers.c.first_name, subscribers.c.last_name), "").label("name"),
        subscribers.c.email,
        subscribers.c.state,
        subscribers.c.expires_at,
        subscribers.c.options_pack,
        plans.c.price_units.label("plan_price"),
        plans.c.validity_months,
        _OPTION.c.price_units.label("option_price"),
    )
    .join(subscribers, subscribers.c.id == memberships.c.member_id)
    .outerjoin(plans, plans.c.plan == subscribers.c.plan)
    .outerjoin(_OPTION, sa.and_(_OPTION.c.option == "options_pack", _OPTION.c.on_sale))
    .where(
        memberships.c.group_id == sa.bindparam("group_id", type_=sa.Uuid()),
        memberships.c.active,
        memberships.c.member_id == sa.any_(sa.bindparam("ids", type_=ARRAY(sa.Uuid()))),
    )
    .order_by(subscribers.c.last_name, subscribers.c.first_name, memberships.c.member_id)
)


async def names(connection: AsyncConnection, owner_id: UUID, member_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return what those of these people are called who are members of the caller's own group today."""
    rows = await connection.execute(_PAYABLE, {"group_id": group_of(owner_id), "ids": list(member_ids)})
    return {row.member_id: row.name or row.email or "" for row in rows}
