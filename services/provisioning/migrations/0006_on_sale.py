"""Plans are good for calendar months; a plan or an option can be off sale."""

from alembic import op

revision = "provisioning_0006"
down_revision = "provisioning_0005"

CHANGE = """
ALTER TABLE plans ADD COLUMN validity_months INTEGER NOT NULL DEFAULT 12;
UPDATE plans SET validity_months = greatest(1, round(validity_days * 12 / 365.0));
ALTER TABLE plans ALTER COLUMN validity_months DROP DEFAULT;
ALTER TABLE plans DROP COLUMN validity_days;
ALTER TABLE plans ADD COLUMN on_sale BOOLEAN NOT NULL DEFAULT true;
ALTER TABLE options ADD COLUMN on_sale BOOLEAN NOT NULL DEFAULT true;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
