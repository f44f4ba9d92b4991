"""A transfer's digest of itself. Those from before have none, and are not checked."""

from alembic import op

revision = "ledger_0006"
down_revision = "ledger_0005"


def upgrade() -> None:
    """Apply."""
    op.execute("ALTER TABLE transfers ADD COLUMN seal BYTEA")
