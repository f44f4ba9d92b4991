"""Visits to the page: which go on, and which tokens are spent."""

from alembic import op

revision = "groups_0006"
down_revision = "groups_0005"

CREATE = """
CREATE TABLE sessions (
    id BYTEA NOT NULL,
    token BYTEA NOT NULL,
    subscriber_id UUID NOT NULL,
    begun_at TIMESTAMP WITH TIME ZONE NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    forget_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (token)
);

CREATE INDEX ix_sessions_forget_at ON sessions (forget_at);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
