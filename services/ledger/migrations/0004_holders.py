"""A hold is its holder's."""

from alembic import op

revision = "ledger_0004"
down_revision = "ledger_0003"


def upgrade() -> None:
    """Apply. Who holds what was held before is not known."""
    op.execute("ALTER TABLE holds ADD COLUMN holder TEXT")
