"""Ended sagas are removed by age."""

from alembic import op

from services.chassis.migrations.plumbing_0005 import CREATE_REMOVALS, INDEX_INBOX, INDEX_SAGAS

revision = "groups_0012"
down_revision = "groups_0011"
compatible_from = "groups_0010"


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_REMOVALS)
    with op.get_context().autocommit_block():
        for statement in (*INDEX_INBOX, *INDEX_SAGAS):
            op.execute(statement)
