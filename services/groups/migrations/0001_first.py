"""The first tables of groups."""

from alembic import op

from services.chassis.migrations.plumbing_0001 import CREATE_PLUMBING

revision = "groups_0001"
down_revision = None

CREATE = """
CREATE TABLE addresses (
    email TEXT NOT NULL,
    subscriber_id UUID NOT NULL,
    PRIMARY KEY (email)
);

CREATE TABLE groups (
    id UUID NOT NULL,
    owner_id UUID NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (owner_id)
);

CREATE TABLE memberships (
    id UUID NOT NULL,
    group_id UUID NOT NULL,
    member_id UUID NOT NULL,
    epoch INTEGER NOT NULL,
    joined_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX ix_memberships_group_id ON memberships (group_id);

CREATE INDEX ix_memberships_member_id ON memberships (member_id);

CREATE TABLE plans (
    plan TEXT NOT NULL,
    price_units BIGINT NOT NULL,
    PRIMARY KEY (plan)
);

CREATE TABLE sagas (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    step TEXT NOT NULL,
    code TEXT,
    data JSONB NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id UUID NOT NULL,
    actor UUID,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    trail TEXT NOT NULL,
    PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE INDEX sagas_open ON sagas (opened_at) WHERE ended_at IS NULL;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_PLUMBING)
    op.execute(CREATE)
