"""Standing orders."""

from alembic import op

revision = "groups_0017"
down_revision = "groups_0016"
compatible_from = "groups_0010"

CREATE = """
CREATE TABLE standing_orders (
    id UUID PRIMARY KEY,
    group_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    member_id UUID NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    threshold_units BIGINT,
    target_units BIGINT,
    monthly_bound_units BIGINT,
    amount_units BIGINT,
    set_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    code TEXT,
    month DATE NOT NULL,
    month_units BIGINT NOT NULL,
    next_month DATE NOT NULL,
    transfer_id UUID,
    due_at TIMESTAMP WITH TIME ZONE,
    looks INTEGER NOT NULL,
    balance_version BIGINT NOT NULL
);

CREATE INDEX ix_standing_orders_group_id ON standing_orders (group_id);
CREATE INDEX ix_standing_orders_member_id ON standing_orders (member_id);
CREATE INDEX standing_orders_due ON standing_orders (due_at) WHERE due_at IS NOT NULL;

ALTER TABLE transfers
    ADD COLUMN order_id UUID,
    ADD COLUMN order_version INTEGER,
    ADD COLUMN month DATE,
    ADD COLUMN bound_units BIGINT;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
