"""Provisioning's tables."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from services.chassis.rows import Mapped, RowSet
from services.chassis.sagas import SagaRow
from services.chassis.tables import Bytes, add_messaging_tables, add_saga_table, timestamp
from services.provisioning.domain import Address, FaxNumber, Grant, Option, Payment, Plan, Purchase, Request, Subscriber

metadata = sa.MetaData()
add_messaging_tables(metadata)
sagas = add_saga_table(metadata)

# As PostgreSQL writes it, so that the migrations' index can be compared with it.
NEXT_DUE: sa.ColumnElement[datetime] = sa.literal_column(
    """timezone('UTC', timezone('UTC', expires_at) - '1 day'::interval *
CASE
    WHEN reminded_days IS NULL OR reminded_days > 30 THEN 30
    WHEN reminded_days > 7 THEN 7
    WHEN reminded_days > 1 THEN 1
    ELSE 0
END)""",
    timestamp(),
)
"""`Subscriber.next_due`, for the index: in UTC, since a day is as long there as any other."""
LASTING = sa.literal_column("state = 'active' AND expires_at IS NOT NULL", sa.Boolean())
"""The accounts that will expire."""

subscribers = sa.Table(
    "subscribers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.Text),
    sa.Column("first_name", sa.Text),
    sa.Column("last_name", sa.Text),
    sa.Column("language", sa.Text),
    sa.Column("plan", sa.Text),
    sa.Column("fax_number", sa.Text),
    sa.Column("created_at", timestamp(), nullable=False),
    sa.Column("expires_at", timestamp()),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("options_pack", sa.Boolean, nullable=False),
    sa.Column("forward_to", sa.Text),
    sa.Column("reminded_days", sa.Integer),
    sa.Column("closed_at", timestamp()),
    sa.Column("registration", Bytes),
    sa.Column("time_zone", sa.Text),
    sa.Index("subscribers_due", NEXT_DUE, postgresql_where=LASTING),
)

# The primary key makes an address unique: of two transactions that find it free, one fails.
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
    sa.Column("expires_at", timestamp()),
)

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("payer_id", sa.Uuid),
    sa.Column("price_units", sa.BigInteger),
    sa.Column("content", Bytes, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("decided_at", timestamp(), nullable=False),
    sa.Column("expires_at", timestamp()),
)

purchases = sa.Table(
    "purchases",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("price_units", sa.BigInteger),
    sa.Column("content", Bytes, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("expires_at", timestamp()),
    sa.Column("decided_at", timestamp()),
)

# Likewise, of two purchases that claim one payment at the same time, one fails.
payments = sa.Table(
    "payments",
    metadata,
    sa.Column("reference", sa.Text, primary_key=True),
    sa.Column("purchase_id", sa.Uuid, nullable=False, unique=True),
)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
    sa.Column("validity_months", sa.Integer, nullable=False),
    sa.Column("fax_number", sa.Boolean, nullable=False),
    sa.Column("on_sale", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("price_units > 0", name="price_positive"),
)

options = sa.Table(
    "options",
    metadata,
    sa.Column("option", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
    sa.Column("on_sale", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.CheckConstraint("price_units > 0", name="option_price_positive"),
)

fax_numbers = sa.Table(
    "fax_numbers",
    metadata,
    sa.Column("number", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("subscriber_id", sa.Uuid, unique=True),
)
sa.Index("fax_numbers_free", fax_numbers.c.number, postgresql_where=fax_numbers.c.state == "free")

SUBSCRIBERS: Mapped[UUID, Subscriber] = Mapped(subscribers, Subscriber, constant=("created_at",))
ADDRESSES: Mapped[str, Address] = Mapped(addresses, Address)
REQUESTS: Mapped[UUID, Request] = Mapped(requests, Request)
GRANTS: Mapped[UUID, Grant] = Mapped(grants, Grant)
PURCHASES: Mapped[UUID, Purchase] = Mapped(
    purchases, Purchase, constant=("account_id", "action", "price_units", "content")
)
PAYMENTS: Mapped[str, Payment] = Mapped(payments, Payment)
PLANS: Mapped[str, Plan] = Mapped(plans, Plan)
ALL_PLANS = RowSet(PLANS)
OPTIONS: Mapped[str, Option] = Mapped(options, Option)
FAX_NUMBERS: Mapped[str, FaxNumber] = Mapped(fax_numbers, FaxNumber)
SAGAS: Mapped[UUID, SagaRow] = Mapped(
    sagas, SagaRow, constant=("name", "correlation_id", "causation_id", "actor", "opened_at"), rarely=("data",)
)
