"""Retries of parked messages by key; which versions this schema supports."""

from alembic import op

from services.chassis.migrations.plumbing_0003 import CREATE_SCHEMA_SUPPORT, RETRY_BY_KEY

revision = "ledger_0005"
down_revision = "ledger_0004"


def upgrade() -> None:
    """Apply."""
    op.execute(RETRY_BY_KEY)
    op.execute(CREATE_SCHEMA_SUPPORT)
