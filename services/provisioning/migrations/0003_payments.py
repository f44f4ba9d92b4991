"""Money pays for one purchase, and for no other."""

from alembic import op

revision = "provisioning_0003"
down_revision = "provisioning_0002"

CREATE = """
CREATE TABLE payments (
    reference TEXT NOT NULL,
    purchase_id UUID NOT NULL,
    PRIMARY KEY (reference),
    UNIQUE (purchase_id)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
