"""Transfers count their requests, and the open ones ask the ledger again."""

from alembic import op

revision = "groups_0010"
down_revision = "groups_0009"

CHANGE = """
ALTER TABLE transfers ADD COLUMN requests INTEGER NOT NULL DEFAULT 1;

CREATE INDEX transfers_open ON transfers (asked_at) WHERE state = 'pending';

-- Those to one member. The order in which several were asked for is not known, and if the ledger knows the transfer,
-- another order is a conflict to it: an operator has to look at those, which the audit names.
INSERT INTO timers (id, due_at, type, key, value, correlation_id, actor)
SELECT id, now(), 'popfax.groups.transfer-due', id::text,
    convert_to(json_build_object('transfer_id', id)::text, 'UTF8'), id::text, owner_id
FROM transfers
WHERE state = 'pending' AND (SELECT count(*) FROM history WHERE reference_id = transfers.id) = 1
ON CONFLICT (id) DO NOTHING;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
