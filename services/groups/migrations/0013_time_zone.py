"""People have a time zone."""

from alembic import op

revision = "groups_0013"
down_revision = "groups_0012"
compatible_from = "groups_0010"

CHANGE = """
ALTER TABLE subscribers ADD COLUMN time_zone TEXT;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
