"""The first tables of ledger."""

from alembic import op

from services.chassis.migrations.plumbing_0001 import CREATE_PLUMBING

revision = "ledger_0001"
down_revision = None

CREATE = """
CREATE TABLE accounts (
    id UUID NOT NULL,
    balance_units BIGINT NOT NULL,
    held_units BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT held_not_negative CHECK (held_units >= 0),
    CONSTRAINT available_not_negative CHECK (balance_units - held_units >= 0)
) WITH (fillfactor = 60);

CREATE TABLE entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    transfer_id UUID NOT NULL,
    account_id UUID NOT NULL,
    amount_units BIGINT NOT NULL,
    before_units BIGINT,
    after_units BIGINT,
    version BIGINT,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT balances_add_up CHECK (after_units = before_units + amount_units)
);

CREATE UNIQUE INDEX entries_of_account ON entries (account_id, version) WHERE version IS NOT NULL;

CREATE TABLE holds (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    amount_units BIGINT NOT NULL,
    state TEXT NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
) WITH (fillfactor = 60);

CREATE TABLE transfers (
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    source_id UUID NOT NULL,
    content BYTEA NOT NULL,
    code TEXT,
    amounts_units JSONB NOT NULL,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_PLUMBING)
    op.execute(CREATE)
