"""Answers name the principal that asked."""

from alembic import op

from services.chassis.migrations.plumbing_0004 import ADD_REQUESTER

revision = "groups_0011"
down_revision = "groups_0010"
compatible_from = "groups_0010"


def upgrade() -> None:
    """Apply."""
    op.execute(ADD_REQUESTER)
