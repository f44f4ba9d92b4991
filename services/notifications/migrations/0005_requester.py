"""Answers name the principal that asked."""

from alembic import op

from services.chassis.migrations.plumbing_0004 import ADD_REQUESTER

revision = "notifications_0005"
down_revision = "notifications_0004"
compatible_from = "notifications_0004"


def upgrade() -> None:
    """Apply."""
    op.execute(ADD_REQUESTER)
