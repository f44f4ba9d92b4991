"""People have a time zone."""

from alembic import op

revision = "provisioning_0010"
down_revision = "provisioning_0009"
compatible_from = "provisioning_0006"

CHANGE = """
ALTER TABLE subscribers ADD COLUMN time_zone TEXT;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
