"""Answers name the principal that asked."""

from alembic import op

from services.chassis.migrations.plumbing_0004 import ADD_REQUESTER

revision = "provisioning_0008"
down_revision = "provisioning_0007"
compatible_from = "provisioning_0006"


def upgrade() -> None:
    """Apply."""
    op.execute(ADD_REQUESTER)
