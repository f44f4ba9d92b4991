"""Groups' tables."""

from uuid import UUID

import sqlalchemy as sa

from services._platform.rows import Mapped
from services._platform.sagas import SagaRow
from services._platform.tables import add_platform_tables, add_saga_table, timestamp
from services.groups.domain import Address, Group, Membership, Plan

metadata = sa.MetaData()
add_platform_tables(metadata)
sagas = add_saga_table(metadata)

groups = sa.Table(
    "groups",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
)

addresses = sa.Table(
    "addresses",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("subscriber_id", sa.Uuid, nullable=False),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False, index=True),
    sa.Column("member_id", sa.Uuid, nullable=False, index=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("joined_at", timestamp(), nullable=False),
)

GROUPS: Mapped[UUID, Group] = Mapped(groups, Group)
ADDRESSES: Mapped[str, Address] = Mapped(addresses, Address)
PLANS: Mapped[str, Plan] = Mapped(plans, Plan)
MEMBERSHIPS: Mapped[UUID, Membership] = Mapped(memberships, Membership)
SAGAS: Mapped[UUID, SagaRow] = Mapped(
    sagas, SagaRow, constant=("name", "correlation_id", "causation_id", "actor", "opened_at")
)
