"""The first tables of provisioning."""

from alembic import op

from services.chassis.migrations.plumbing_0001 import CREATE_PLUMBING

revision = "provisioning_0001"
down_revision = None

CREATE = """
CREATE TABLE addresses (
    email TEXT NOT NULL,
    subscriber_id UUID NOT NULL,
    PRIMARY KEY (email)
);

CREATE TABLE fax_numbers (
    number TEXT NOT NULL,
    state TEXT NOT NULL,
    subscriber_id UUID,
    PRIMARY KEY (number),
    UNIQUE (subscriber_id)
);

CREATE INDEX fax_numbers_free ON fax_numbers (number) WHERE state = 'free';

CREATE TABLE plans (
    plan TEXT NOT NULL,
    price_units BIGINT NOT NULL,
    validity_days INTEGER NOT NULL,
    fax_number BOOLEAN NOT NULL,
    PRIMARY KEY (plan),
    CONSTRAINT price_positive CHECK (price_units > 0)
);

CREATE TABLE requests (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    code TEXT,
    content BYTEA NOT NULL,
    decided_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE subscribers (
    id UUID NOT NULL,
    email TEXT NOT NULL,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    language TEXT NOT NULL,
    plan TEXT,
    fax_number TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_PLUMBING)
    op.execute(CREATE)
