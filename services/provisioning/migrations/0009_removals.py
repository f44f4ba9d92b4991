"""Ended sagas are removed by age."""

from alembic import op

from services.chassis.migrations.plumbing_0005 import CREATE_REMOVALS, INDEX_INBOX, INDEX_SAGAS

revision = "provisioning_0009"
down_revision = "provisioning_0008"
compatible_from = "provisioning_0006"


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_REMOVALS)
    with op.get_context().autocommit_block():
        for statement in (*INDEX_INBOX, *INDEX_SAGAS):
            op.execute(statement)
