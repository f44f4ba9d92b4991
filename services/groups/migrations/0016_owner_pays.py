"""What an owner can pay for a member: the member's plan, whether they have the options pack, and what options cost."""

from alembic import op

revision = "groups_0016"
down_revision = "groups_0015"
compatible_from = "groups_0010"

CHANGE = """
ALTER TABLE subscribers ADD COLUMN plan TEXT;
ALTER TABLE subscribers ADD COLUMN options_pack BOOLEAN NOT NULL DEFAULT false;

CREATE TABLE options (
    option TEXT NOT NULL,
    price_units BIGINT NOT NULL,
    on_sale BOOLEAN NOT NULL DEFAULT true,
    PRIMARY KEY (option)
);
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
