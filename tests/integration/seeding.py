"""Puts rows of a service into a real database, as its own store writes them."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.message import group_of
from services.chassis.postgres import PostgresDatabase
from services.chassis.rows import Rows
from services.groups.domain import AccountState, Group, Membership, Subscriber, membership_of
from tests.unit.given import NOW, TABLES, id_of


async def seed(engine: AsyncEngine, rows: Iterable[Any]) -> None:
    """Insert rows of any classes."""
    changes = []
    for kind, same in groupby(sorted(rows, key=lambda row: type(row).__name__), key=type):
        table: Rows[Any, Any] = Rows(TABLES[kind], {})
        for row in same:
            table.put(row)
        changes.append(table)
    async with PostgresDatabase(engine).begin() as tx:
        await tx.save(changes)


def person(name: str, units: int = 0, **changed: Any) -> Subscriber:
    """Return a subscriber whose every field differs from everybody else's."""
    fields: dict[str, Any] = {
        "id": id_of(name),
        "email": f"{name.lower()}@example.com",
        "first_name": name,
        "last_name": f"Of-{name}",
        "language": "en",
        "state": AccountState.ACTIVE,
        "expires_at": NOW,
        "available_units": units,
        "balance_version": 1,
    }
    return Subscriber(**(fields | changed))


def group(owner: Subscriber, name: str = "") -> Group:
    """Return a subscriber's group."""
    return Group(group_of(owner.id), owner.id, name or f"{owner.first_name} {owner.last_name}", bool(name), None)


def member(owner: Subscriber, subscriber: Subscriber, **changed: Any) -> Membership:
    """Return a subscriber's membership in an owner's group."""
    group_id: UUID = group_of(owner.id)
    fields: dict[str, Any] = {
        "id": membership_of(group_id, subscriber.id),
        "group_id": group_id,
        "owner_id": owner.id,
        "member_id": subscriber.id,
        "active": True,
        "epoch": 1,
        "invitation_id": None,
        "joined_at": NOW,
        "ended_at": None,
    }
    return Membership(**(fields | changed))
