"""Reads of standing orders, for the owner of the group alone: a member never learns of one."""

from collections.abc import Collection, Mapping
from datetime import date
from uuid import UUID

import sqlalchemy as sa
from pydantic import AwareDatetime, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from popfax_contracts.message import group_of
from services.groups.domain import OrderKind, OrderState
from services.groups.tables import memberships, standing_orders, subscribers
from services.groups.web import members
from services.groups.web.queries import Member, View


class Order(View):
    """A standing order of a member of the caller's own group. The member never learns of it."""

    order_id: UUID
    member_id: UUID
    first_name: str | None
    last_name: str | None
    email: str | None
    state: OrderState = Field(description="`active`, or `paused` until it is set again")
    code: str | None = Field(description="why it is paused")
    kind: OrderKind
    threshold_units: int | None
    target_units: int | None
    monthly_bound_units: int | None
    amount_units: int | None
    set_at: AwareDatetime
    month: date = Field(description="the first day of the month that `month_units` is about")
    month_units: int = Field(description="what it has moved in that month")
    next_month: date = Field(description="the month that a monthly order pays next")


class OrdersPage(View):
    """A page of standing orders; `next` is the cursor of the page after it, null on the last one."""

    items: tuple[Order, ...]
    next: UUID | None


async def read_page(connection: AsyncConnection, owner_id: UUID, after: UUID | None, limit: int) -> OrdersPage:
    """Return the standing orders of the caller's own group in the order of their ids: those after one of them."""
    query = _orders(owner_id).order_by(standing_orders.c.id).limit(limit + 1)
    if after is not None:
        query = query.where(standing_orders.c.id > after)
    found = await _read(connection, query)
    return OrdersPage(items=found[:limit], next=found[limit - 1].order_id if len(found) > limit else None)


async def read_by_name(connection: AsyncConnection, owner_id: UUID, limit: int, offset: int) -> tuple[Order, ...]:
    """Return the standing orders of the caller's own group, those that are paused first, then by their members."""
    is_at_work = standing_orders.c.state != OrderState.PAUSED.value
    query = _orders(owner_id).order_by(is_at_work, members.listed(subscribers), standing_orders.c.id)
    return await _read(connection, query.limit(limit).offset(offset))


async def of_members(connection: AsyncConnection, owner_id: UUID, ids: Collection[UUID]) -> tuple[Order, ...]:
    """Return the standing orders of these members of the caller's own group."""
    query = _orders(owner_id).where(standing_orders.c.member_id.in_(list(ids))).order_by(standing_orders.c.id)
    return await _read(connection, query)


async def states(connection: AsyncConnection, owner_id: UUID, ids: Collection[UUID]) -> Mapping[UUID, OrderState]:
    """Return the states of the standing orders of these members of the caller's own group."""
    query = sa.select(standing_orders.c.member_id, standing_orders.c.state).where(
        *_of_group(owner_id), standing_orders.c.member_id.in_(list(ids))
    )
    return {row.member_id: OrderState(row.state) for row in await connection.execute(query)}


async def count(connection: AsyncConnection, owner_id: UUID) -> int:
    """Return how many members of the caller's own group have a standing order."""
    query = sa.select(sa.func.count()).select_from(standing_orders).where(*_of_group(owner_id))
    return int((await connection.execute(query)).scalar_one())


async def member(connection: AsyncConnection, owner_id: UUID, member_id: UUID) -> tuple[Member, ...]:
    """Return the member of the caller's own group with an id; nobody, if there is none."""
    query = sa.select(memberships.c.epoch).where(
        memberships.c.group_id == group_of(owner_id), memberships.c.member_id == member_id, memberships.c.active
    )
    epoch = (await connection.execute(query)).scalar_one_or_none()
    return () if epoch is None else await members.read_some(connection, owner_id, [(member_id, epoch)])


async def _read(connection: AsyncConnection, query: sa.Select[tuple[object, ...]]) -> tuple[Order, ...]:
    return tuple(Order.model_validate(row) for row in await connection.execute(query))


def _of_group(owner_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    """Say which are of the caller's own group, and not stopped."""
    return standing_orders.c.group_id == group_of(owner_id), standing_orders.c.state != OrderState.STOPPED.value


def _orders(owner_id: UUID) -> sa.Select[tuple[object, ...]]:
    return (
        sa.select(
            standing_orders.c.id.label("order_id"),
            *(column for column in standing_orders.c if column.name in Order.model_fields),
            subscribers.c.first_name,
            subscribers.c.last_name,
            subscribers.c.email,
        )
        .outerjoin(subscribers, subscribers.c.id == standing_orders.c.member_id)
        .where(*_of_group(owner_id))
    )
