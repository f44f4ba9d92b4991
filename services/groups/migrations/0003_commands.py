"""What became of the commands that were posted over HTTP."""

from alembic import op

revision = "groups_0003"
down_revision = "groups_0002"

CREATE = """
CREATE TABLE commands (
    id UUID NOT NULL,
    type TEXT NOT NULL,
    actor_id UUID NOT NULL,
    content_hash BYTEA NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    result JSONB,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE INDEX commands_pending ON commands (actor_id) WHERE state = 'pending';

CREATE INDEX commands_by_age ON commands USING brin (asked_at);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
