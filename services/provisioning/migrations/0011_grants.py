"""What the owner of a group pays for a member's account."""

from alembic import op

revision = "provisioning_0011"
down_revision = "provisioning_0010"
compatible_from = "provisioning_0006"

CREATE = """
CREATE TABLE grants (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    action TEXT NOT NULL,
    payer_id UUID,
    price_units BIGINT,
    content BYTEA NOT NULL,
    code TEXT,
    decided_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
