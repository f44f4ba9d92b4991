"""Accounts whose expiry, or a reminder of it, is due are found by an index, and have no timers.

Timers that are there already fire as before, and find nothing left to do.
"""

from alembic import op

revision = "provisioning_0007"
down_revision = "provisioning_0006"
compatible_from = "provisioning_0006"

CREATE = """
CREATE INDEX CONCURRENTLY subscribers_due ON subscribers (
    timezone('UTC', timezone('UTC', expires_at) - interval '1 day' * CASE
        WHEN reminded_days IS NULL OR reminded_days > 30 THEN 30
        WHEN reminded_days > 7 THEN 7 WHEN reminded_days > 1 THEN 1 ELSE 0 END)
) WHERE state = 'active' AND expires_at IS NOT NULL
"""


def upgrade() -> None:
    """Apply. What an attempt that was interrupted left behind is removed first."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS subscribers_due")
        op.execute(CREATE)
