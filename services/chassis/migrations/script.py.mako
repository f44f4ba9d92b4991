"""${message}."""

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
compatible_from = ${repr(down_revision)}  # the oldest revision whose code works on what this leaves


def upgrade() -> None:
    """Apply."""
    ${upgrades if upgrades else "pass"}
