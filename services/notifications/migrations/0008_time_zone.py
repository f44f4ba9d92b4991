"""People have a time zone."""

from alembic import op

revision = "notifications_0008"
down_revision = "notifications_0007"
compatible_from = "notifications_0004"

CHANGE = """
ALTER TABLE people ADD COLUMN time_zone TEXT;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
