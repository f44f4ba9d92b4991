"""Lists of commands that somebody posted at once on the page, to follow them together."""

from alembic import op

revision = "groups_0015"
down_revision = "groups_0014"
compatible_from = "groups_0010"

CREATE = """
CREATE TABLE command_lists (
    id UUID NOT NULL,
    type TEXT NOT NULL,
    actor_id UUID NOT NULL,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    lines JSONB NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX ix_command_lists_actor_id ON command_lists (actor_id);
CREATE INDEX ix_command_lists_made_at ON command_lists (made_at);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
