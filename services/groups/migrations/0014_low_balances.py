"""Owners choose what counts as few units, and whether they are mailed about it."""

from alembic import op

revision = "groups_0014"
down_revision = "groups_0013"
compatible_from = "groups_0010"

CHANGE = """
CREATE TABLE low_balances (
    group_id UUID PRIMARY KEY,
    owner_id UUID NOT NULL,
    below_units BIGINT,
    look_at TIMESTAMP WITH TIME ZONE,
    mailed_on DATE,
    mails INTEGER NOT NULL,
    low TEXT NOT NULL
);

CREATE INDEX low_balances_to_look_at ON low_balances (look_at) WHERE look_at IS NOT NULL;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
