"""Provisioning's tables."""

from uuid import UUID

import sqlalchemy as sa

from services._platform.rows import Mapped
from services._platform.tables import Bytes, add_platform_tables, timestamp
from services.provisioning.domain import Address, FaxNumber, Plan, Request, Subscriber

metadata = sa.MetaData()
add_platform_tables(metadata)

subscribers = sa.Table(
    "subscribers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("first_name", sa.Text, nullable=False),
    sa.Column("last_name", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("plan", sa.Text),
    sa.Column("fax_number", sa.Text),
    sa.Column("created_at", timestamp(), nullable=False),
    sa.Column("expires_at", timestamp()),
)

# The primary key is what makes an address unique: of two transactions that find it free, one is told that it is not.
addresses = sa.Table(
    "addresses",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("subscriber_id", sa.Uuid, nullable=False),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("content", Bytes, nullable=False),
    sa.Column("decided_at", timestamp(), nullable=False),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
    sa.Column("validity_days", sa.Integer, nullable=False),
    sa.Column("fax_number", sa.Boolean, nullable=False),
    sa.CheckConstraint("price_units > 0", name="price_positive"),
)

fax_numbers = sa.Table(
    "fax_numbers",
    metadata,
    sa.Column("number", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("subscriber_id", sa.Uuid, unique=True),
)
sa.Index("fax_numbers_free", fax_numbers.c.number, postgresql_where=fax_numbers.c.state == "free")

SUBSCRIBERS: Mapped[UUID, Subscriber] = Mapped(subscribers, Subscriber)
ADDRESSES: Mapped[str, Address] = Mapped(addresses, Address)
REQUESTS: Mapped[UUID, Request] = Mapped(requests, Request)
PLANS: Mapped[str, Plan] = Mapped(plans, Plan)
FAX_NUMBERS: Mapped[str, FaxNumber] = Mapped(fax_numbers, FaxNumber)
