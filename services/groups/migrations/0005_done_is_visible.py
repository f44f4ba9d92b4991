"""A posted command is done once all that it changed is to be seen: who waits for what, and for how much."""

from alembic import op

revision = "groups_0005"
down_revision = "groups_0004"


def upgrade() -> None:
    """Apply."""
    op.execute("ALTER TABLE subscribers ADD COLUMN awaited TEXT NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE commands ADD COLUMN awaits INTEGER NOT NULL DEFAULT 0")
