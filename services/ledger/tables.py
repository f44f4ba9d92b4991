"""The ledger's tables."""

from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.rows import AppendOnly, Mapped
from services.chassis.tables import Bytes, add_messaging_tables, timestamp
from services.ledger.domain import Account, AccountState, Correction, Entry, Hold, Transfer

metadata = sa.MetaData()
add_messaging_tables(metadata)

# Accounts are updated constantly and their columns have no index: with room on the page, an update stays there (HOT).
_IN_PLACE = {"fillfactor": "60"}

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("balance_units", sa.BigInteger, nullable=False),
    sa.Column("held_units", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default=AccountState.ACTIVE.value),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    # The handlers refuse first; these are in case one doesn't.
    sa.CheckConstraint("held_units >= 0", name="held_not_negative"),
    sa.CheckConstraint("balance_units - held_units >= 0", name="available_not_negative"),
    info={"storage": _IN_PLACE},
)

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("amount_units", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("opened_at", timestamp(), nullable=False),
    sa.Column("closed_at", timestamp()),
    sa.Column("extends", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("code", sa.Text),
    sa.Column("holder", sa.Text),
    info={"storage": _IN_PLACE},
)

transfers = sa.Table(
    "transfers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source_id", sa.Uuid, nullable=False),
    sa.Column("content", Bytes, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("amounts_units", JSONB, nullable=False),
    sa.Column("made_at", timestamp(), nullable=False),
    sa.Column("reference", sa.Text),
    sa.Column("seal", Bytes),
)

# The audit: a row for every correction requested by an operator, done or refused.
corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("amount_units", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("operator", sa.Text, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("made_at", timestamp(), nullable=False),
)

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("transfer_id", sa.Uuid, nullable=False),
    sa.Column("account_id", sa.Uuid, nullable=False),
    sa.Column("amount_units", sa.BigInteger, nullable=False),
    sa.Column("before_units", sa.BigInteger),
    sa.Column("after_units", sa.BigInteger),
    sa.Column("version", sa.BigInteger),
    sa.Column("made_at", timestamp(), nullable=False),
    sa.CheckConstraint("after_units = before_units + amount_units", name="balances_add_up"),
)
# One entry per version of an account, so that a lost update can't be written.
sa.Index(
    "entries_of_account",
    entries.c.account_id,
    entries.c.version,
    unique=True,
    postgresql_where=entries.c.version.is_not(None),
)

ACCOUNTS: Mapped[UUID, Account] = Mapped(accounts, Account)
HOLDS: Mapped[UUID, Hold] = Mapped(
    holds, Hold, constant=("account_id", "amount_units", "opened_at", "extends", "code", "holder")
)
TRANSFERS: Mapped[UUID, Transfer] = Mapped(transfers, Transfer)
CORRECTIONS: Mapped[UUID, Correction] = Mapped(corrections, Correction)
ENTRIES: AppendOnly[Entry] = AppendOnly(entries, Entry)
