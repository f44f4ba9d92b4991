"""Groups' tables."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.rows import Mapped, RowSet
from services.chassis.sagas import SagaRow
from services.chassis.tables import Bytes, add_messaging_tables, add_saga_table, timestamp
from services.chassis.waiting import FEWER, Waiting, open_sagas, waiting
from services.groups.domain import (
    Group,
    HistoryEntry,
    Invitation,
    InvitationState,
    LowBalance,
    Membership,
    Option,
    OrderKind,
    OrderState,
    Plan,
    PostedCommand,
    StandingOrder,
    Subscriber,
    Tally,
    Transfer,
)

metadata = sa.MetaData()
add_messaging_tables(metadata)
sagas = add_saga_table(metadata)

groups = sa.Table(
    "groups",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("renamed", sa.Boolean, nullable=False),
    sa.Column("closed_at", timestamp()),
)

low_balances = sa.Table(
    "low_balances",
    metadata,
    sa.Column("group_id", sa.Uuid, primary_key=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("below_units", sa.BigInteger),
    sa.Column("look_at", timestamp()),
    sa.Column("mailed_on", sa.Date),
    sa.Column("mails", sa.Integer, nullable=False),
    sa.Column("low", sa.Text, nullable=False),
)
TO_LOOK_AT = sa.literal_column("look_at IS NOT NULL", sa.Boolean())
"""The groups whose owners want to be mailed."""
sa.Index("low_balances_to_look_at", low_balances.c.look_at, postgresql_where=TO_LOOK_AT)

# Updated with every balance, and no column that changes then has an index: with room, a row stays on its page (HOT).
subscribers = sa.Table(
    "subscribers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.Text),
    sa.Column("first_name", sa.Text),
    sa.Column("last_name", sa.Text),
    sa.Column("language", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("expires_at", timestamp()),
    sa.Column("available_units", sa.BigInteger, nullable=False),
    sa.Column("balance_version", sa.BigInteger, nullable=False),
    sa.Column("awaited", sa.Text, nullable=False, server_default=""),
    sa.Column("time_zone", sa.Text),
    sa.Column("plan", sa.Text),
    sa.Column("options_pack", sa.Boolean, nullable=False, server_default=sa.false()),
    # The database keeps it (migration 18): how a list sorts this person, and what a search finds them by.
    sa.Column("listed_as", sa.Text, server_default=sa.FetchedValue(), server_onupdate=sa.FetchedValue()),
    info={"storage": {"fillfactor": "60"}},
)

# Not unique: two people's records arrive in any order, and both may briefly have the same address.
sa.Index("subscribers_by_email", subscribers.c.email)

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("plan", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
    sa.Column("validity_months", sa.Integer, nullable=False),
    sa.Column("on_sale", sa.Boolean, nullable=False, server_default=sa.true()),
)

options = sa.Table(
    "options",
    metadata,
    sa.Column("option", sa.Text, primary_key=True),
    sa.Column("price_units", sa.BigInteger, nullable=False),
    sa.Column("on_sale", sa.Boolean, nullable=False, server_default=sa.true()),
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False, index=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("member_id", sa.Uuid, nullable=False, index=True),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("invitation_id", sa.Uuid),
    sa.Column("joined_at", timestamp()),
    sa.Column("ended_at", timestamp()),
    sa.Column("shown_name", sa.Text),
    sa.Column("shown_email", sa.Text),
    # The handlers ensure it; this is in case one doesn't.
    sa.CheckConstraint("NOT active OR invitation_id IS NULL", name="member_or_invited"),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("subscriber_id", sa.Uuid, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("token_hash", Bytes, nullable=False),
    sa.Column("made_at", timestamp(), nullable=False),
    sa.Column("expires_at", timestamp(), nullable=False),
    sa.Column("ended_at", timestamp()),
    sa.Column("email", sa.Text),
)
_pending = invitations.c.state == "pending"
sa.Index(
    "invitations_pending",
    invitations.c.group_id,
    invitations.c.subscriber_id,
    unique=True,
    postgresql_where=_pending,
)
sa.Index("invitations_got", invitations.c.subscriber_id, postgresql_where=_pending)
sa.Index("invitations_of_subscriber", invitations.c.subscriber_id)

tallies = sa.Table(
    "tallies",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("pending", sa.Integer, nullable=False),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("today", sa.Integer, nullable=False),
    sa.CheckConstraint("pending >= 0", name="pending_not_negative"),
)

transfers = sa.Table(
    "transfers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("amount_units", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("total_units", sa.BigInteger),
    sa.Column("asked_at", timestamp(), nullable=False),
    sa.Column("ended_at", timestamp()),
    sa.Column("requests", sa.Integer, nullable=False, server_default="1"),
    sa.Column("order_id", sa.Uuid),
    sa.Column("order_version", sa.Integer),
    sa.Column("month", sa.Date),
    sa.Column("bound_units", sa.BigInteger),
)
# Only open ones are looked up, while most have ended.
sa.Index("transfers_open", transfers.c.asked_at, postgresql_where=transfers.c.state == "pending")

standing_orders = sa.Table(
    "standing_orders",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False, index=True),
    sa.Column("owner_id", sa.Uuid, nullable=False),
    sa.Column("member_id", sa.Uuid, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("threshold_units", sa.BigInteger),
    sa.Column("target_units", sa.BigInteger),
    sa.Column("monthly_bound_units", sa.BigInteger),
    sa.Column("amount_units", sa.BigInteger),
    sa.Column("set_at", timestamp(), nullable=False),
    sa.Column("ended_at", timestamp()),
    sa.Column("code", sa.Text),
    sa.Column("month", sa.Date, nullable=False),
    sa.Column("month_units", sa.BigInteger, nullable=False),
    sa.Column("next_month", sa.Date, nullable=False),
    sa.Column("transfer_id", sa.Uuid),
    sa.Column("due_at", timestamp()),
    sa.Column("looks", sa.Integer, nullable=False),
    sa.Column("balance_version", sa.BigInteger, nullable=False),
)
sa.Index("standing_orders_due", standing_orders.c.due_at, postgresql_where=standing_orders.c.due_at.is_not(None))

history = sa.Table(
    "history",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("group_id", sa.Uuid, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", timestamp(), nullable=False),
    sa.Column("actor_id", sa.Uuid),
    sa.Column("member_id", sa.Uuid),
    sa.Column("reference_id", sa.Uuid, nullable=False, index=True),
    sa.Column("units", sa.BigInteger),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("ended_at", timestamp()),
)
# A page of the history is a range of one of these indexes, or a few, from where the page before it ended.
sa.Index("history_of_group", history.c.group_id, history.c.at, history.c.id)
sa.Index("history_of_group_by_kind", history.c.group_id, history.c.kind, history.c.at, history.c.id)
sa.Index(
    "history_of_member",
    history.c.group_id,
    history.c.member_id,
    history.c.kind,
    history.c.at,
    history.c.id,
    postgresql_where=history.c.member_id.is_not(None),
)

commands = sa.Table(
    "commands",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Uuid, nullable=False),
    sa.Column("content_hash", Bytes, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("result", JSONB),
    sa.Column("asked_at", timestamp(), nullable=False),
    sa.Column("ended_at", timestamp()),
    sa.Column("awaits", sa.Integer, nullable=False, server_default="0"),
    sa.Index("commands_by_age", "asked_at", postgresql_using="brin"),
)
sa.Index("commands_pending", commands.c.actor_id, postgresql_where=commands.c.state == "pending")

# The page's own: what somebody posted at once. No handler reads it; with what was pasted, it is kept for a day.
command_lists = sa.Table(
    "command_lists",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("actor_id", sa.Uuid, nullable=False, index=True),
    sa.Column("made_at", timestamp(), nullable=False, index=True),
    sa.Column("lines", JSONB, nullable=False),
)

# No secret is stored: only a hash of the visitor's secret, and one of the spent token.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Bytes, primary_key=True),
    sa.Column("token", Bytes, nullable=False, unique=True),
    sa.Column("subscriber_id", sa.Uuid, nullable=False),
    sa.Column("begun_at", timestamp(), nullable=False),
    sa.Column("until", timestamp(), nullable=False),
    sa.Column("ended_at", timestamp()),
    sa.Column("forget_at", timestamp(), nullable=False, index=True),
)

GROUPS: Mapped[UUID, Group] = Mapped(groups, Group, constant=("owner_id",))
LOW_BALANCES: Mapped[UUID, LowBalance] = Mapped(low_balances, LowBalance, constant=("owner_id",), rarely=("low",))
SUBSCRIBERS: Mapped[UUID, Subscriber] = Mapped(subscribers, Subscriber)
PLANS: Mapped[str, Plan] = Mapped(plans, Plan)
OPTIONS: Mapped[str, Option] = Mapped(options, Option)
MEMBERSHIPS: Mapped[UUID, Membership] = Mapped(memberships, Membership, constant=("group_id", "owner_id", "member_id"))
INVITATIONS: Mapped[UUID, Invitation] = Mapped(
    invitations, Invitation, constant=("group_id", "owner_id", "subscriber_id", "made_at")
)
TALLIES: Mapped[UUID, Tally] = Mapped(tallies, Tally)
TRANSFERS: Mapped[UUID, Transfer] = Mapped(
    transfers,
    Transfer,
    constant=(
        *("group_id", "owner_id", "mode", "amount_units", "asked_at"),
        *("order_id", "order_version", "month", "bound_units"),
    ),
)
ORDERS: Mapped[UUID, StandingOrder] = Mapped(
    standing_orders, StandingOrder, constant=("group_id", "owner_id", "member_id")
)
HISTORY: Mapped[UUID, HistoryEntry] = Mapped(
    history, HistoryEntry, constant=("group_id", "kind", "at", "actor_id", "reference_id")
)
COMMANDS: Mapped[UUID, PostedCommand] = Mapped(
    commands, PostedCommand, constant=("type", "actor_id", "content_hash", "asked_at")
)
SAGAS: Mapped[UUID, SagaRow] = Mapped(
    sagas, SagaRow, constant=("name", "correlation_id", "causation_id", "actor", "opened_at"), rarely=("data",)
)

WITH_EMAIL = RowSet(SUBSCRIBERS, "email")
"""The holders of an address. Records of different people arrive in any order, so two may briefly have it."""
MEMBERS = RowSet(MEMBERSHIPS, "group_id", active=[True])
"""The active memberships of a group."""
MEMBERSHIPS_OF = RowSet(MEMBERSHIPS, "member_id")
"""A subscriber's memberships in others' groups, active or not."""
INVITATIONS_OF = RowSet(INVITATIONS, "subscriber_id")
"""All invitations that a subscriber has ever received."""
PENDING_OF_GROUP = RowSet(INVITATIONS, "group_id", state=[InvitationState.PENDING])
"""The invitations into a group that can still be answered."""
ALL_PLANS = RowSet(PLANS)
KEEPING = RowSet(ORDERS, "member_id", state=[OrderState.ACTIVE], kind=[OrderKind.KEEP_AT])
"""The standing orders that watch a member's balance: one of each owner at most."""
LINES_ABOUT = RowSet(HISTORY, "reference_id")
"""The history lines about one thing: about a transfer, one per member."""

WAITING = (
    open_sagas(sagas),
    waiting(
        "transfer", "transfers that the ledger has not answered", transfers.c.asked_at, transfers.c.state == "pending"
    ),
    Waiting(
        "command",
        "commands posted on the page or over the API of which nothing has become yet",
        sa.select(commands.c.asked_at).where(commands.c.state == "pending"),
        FEWER,
    ),
)
"""What is open in these tables."""
