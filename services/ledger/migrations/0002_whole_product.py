"""Accounts expire and close, units are spent and corrected, balances are told."""

from alembic import op

revision = "ledger_0002"
down_revision = "ledger_0001"

# The defaults stay: a replica of the version before, still running for a moment, inserts without these columns.
CHANGE = """
ALTER TABLE accounts
    ADD COLUMN state TEXT NOT NULL DEFAULT 'active',
    ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

ALTER TABLE holds
    ADD COLUMN extends BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN code TEXT;

ALTER TABLE transfers ADD COLUMN reference TEXT;

CREATE TABLE corrections (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    amount_units BIGINT NOT NULL,
    reason TEXT NOT NULL,
    operator TEXT NOT NULL,
    code TEXT,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);
"""

# Until now there was one reason to refuse a hold. A revision counts each change: entries, holds, and their releases.
FILL = """
UPDATE holds SET code = 'units_short' WHERE state = 'refused';
UPDATE accounts SET revision = version + coalesce((
    SELECT sum(CASE holds.state WHEN 'released' THEN 2 WHEN 'open' THEN 1 WHEN 'captured' THEN 1 ELSE 0 END)
    FROM holds WHERE holds.account_id = accounts.id
), 0);
"""

# What is on the accounts was told to nobody yet, and one that rests would never be.
TELL = """
INSERT INTO outbox (id, type, key, value, correlation_id, causation_id, made_at)
SELECT gen_random_uuid(), 'popfax.ledger.balance-changed.v1', id::text,
    convert_to(json_build_object('account_id', id, 'version', revision, 'balance_units', balance_units,
        'available_units', balance_units - held_units)::text, 'UTF8'),
    'ledger_0002', 'ledger_0002', now()
FROM accounts WHERE revision > 0 ORDER BY id;
"""


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
    op.execute(FILL)
    op.execute(TELL)
