"""The first tables of notifications."""

from alembic import op

from services.chassis.migrations.plumbing_0001 import CREATE_PLUMBING

revision = "notifications_0001"
down_revision = None

CREATE = """
CREATE TABLE deliveries (
    mail_id UUID NOT NULL,
    rendered BYTEA,
    recipient TEXT,
    attempts INTEGER NOT NULL,
    in_flight_since TIMESTAMP WITH TIME ZONE,
    uncertain INTEGER NOT NULL,
    last_answer TEXT,
    sent_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (mail_id)
);

CREATE TABLE mails (
    id UUID NOT NULL,
    template TEXT NOT NULL,
    recipient_id UUID NOT NULL,
    about_id UUID,
    params JSONB NOT NULL,
    state TEXT NOT NULL,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    next_attempt_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX mails_due ON mails (next_attempt_at) WHERE state IN ('queued', 'rendered');

CREATE TABLE people (
    id UUID NOT NULL,
    email TEXT NOT NULL,
    first_name TEXT NOT NULL,
    last_name TEXT NOT NULL,
    language TEXT NOT NULL,
    fax_number TEXT,
    PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE_PLUMBING)
    op.execute(CREATE)
