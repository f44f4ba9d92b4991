"""All mails of the product, bounces, and the erasure of a person."""

from alembic import op

revision = "notifications_0002"
down_revision = "notifications_0001"

CHANGE = """
ALTER TABLE mails ADD COLUMN invitation_id UUID;

ALTER TABLE mails ADD COLUMN round INTEGER;

CREATE INDEX mails_by_recipient ON mails (recipient_id);

CREATE INDEX mails_by_subject ON mails (about_id);

CREATE TABLE erased (
    id UUID NOT NULL,
    PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
