"""How far rows have been removed is noted."""

from alembic import op

from services.chassis.migrations.plumbing_0005 import CREATE_REMOVALS, INDEX_INBOX

revision = "ledger_0008"
down_revision = "ledger_0007"
compatible_from = "ledger_0006"


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_REMOVALS)
    with op.get_context().autocommit_block():
        for statement in INDEX_INBOX:
            op.execute(statement)
