"""Partitions that have stopped at a batch which can't be unpacked."""

from alembic import op

from services.chassis.migrations.plumbing_0002 import CREATE_PARTITION_STOPS

revision = "groups_0004"
down_revision = "groups_0003"


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_PARTITION_STOPS)
