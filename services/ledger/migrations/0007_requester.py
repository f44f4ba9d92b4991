"""Answers name the principal that asked."""

from alembic import op

from services.chassis.migrations.plumbing_0004 import ADD_REQUESTER

revision = "ledger_0007"
down_revision = "ledger_0006"
compatible_from = "ledger_0006"


def upgrade() -> None:
    """Apply."""
    op.execute(ADD_REQUESTER)
