"""A member's lines of the history have an index."""

from alembic import op

revision = "groups_0019"
down_revision = "groups_0018"
compatible_from = "groups_0010"
needed = False

CREATE = """
CREATE INDEX CONCURRENTLY history_of_member ON history (group_id, member_id, kind, at, id) WHERE member_id IS NOT NULL
"""


def upgrade() -> None:
    """Apply. What an attempt that was interrupted left behind is removed first."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS history_of_member")
        op.execute(CREATE)
