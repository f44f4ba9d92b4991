"""A mail belongs to the trace of what it reports."""

from alembic import op

revision = "notifications_0006"
down_revision = "notifications_0005"
compatible_from = "notifications_0004"

CHANGE = """
ALTER TABLE mails ADD COLUMN traceparent TEXT;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
