"""Accounts expire, are extended, have options, and are closed."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy as sa
from alembic import op

revision = "provisioning_0002"
down_revision = "provisioning_0001"

# The defaults stay: a replica of the version before, still running for a moment, inserts without these columns.
CHANGE = """
ALTER TABLE subscribers
    ALTER COLUMN email DROP NOT NULL,
    ALTER COLUMN first_name DROP NOT NULL,
    ALTER COLUMN last_name DROP NOT NULL,
    ALTER COLUMN language DROP NOT NULL,
    ADD COLUMN state TEXT NOT NULL DEFAULT 'active',
    ADD COLUMN options_pack BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN forward_to TEXT,
    ADD COLUMN reminded_days INTEGER,
    ADD COLUMN closed_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN registration BYTEA;

ALTER TABLE requests ADD COLUMN expires_at TIMESTAMP WITH TIME ZONE;

CREATE TABLE options (
    option TEXT NOT NULL,
    price_units BIGINT NOT NULL,
    PRIMARY KEY (option),
    CONSTRAINT option_price_positive CHECK (price_units > 0)
);

CREATE TABLE purchases (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    action TEXT NOT NULL,
    price_units BIGINT,
    content BYTEA NOT NULL,
    code TEXT,
    expires_at TIMESTAMP WITH TIME ZONE,
    decided_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE TABLE sagas (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    step TEXT NOT NULL,
    code TEXT,
    data JSONB NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id UUID NOT NULL,
    actor UUID,
    opened_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    trail TEXT NOT NULL,
    PRIMARY KEY (id)
) WITH (fillfactor = 50);

CREATE INDEX sagas_open ON sagas (opened_at) WHERE ended_at IS NULL;
"""

# No account was extended so far: its end is the one that it was given. The milestones that had passed when it began are
# never told; those that have passed since are, late, when the timers fire.
FILL = """
UPDATE requests SET expires_at = subscribers.expires_at
FROM subscribers WHERE subscribers.id = requests.account_id AND requests.code IS NULL;

UPDATE subscribers SET reminded_days = CASE
    WHEN expires_at - created_at <= interval '1 day' THEN 1
    WHEN expires_at - created_at <= interval '7 days' THEN 7
    WHEN expires_at - created_at <= interval '30 days' THEN 30
END WHERE expires_at IS NOT NULL;
"""

EXPIRING = "SELECT id, expires_at, reminded_days FROM subscribers WHERE expires_at IS NOT NULL AND id > :after"
REGISTERED = "SELECT id, email, first_name, last_name, language FROM subscribers WHERE plan IS NULL AND id > :after"

SET_TIMER = """
INSERT INTO timers (id, due_at, type, key, value, correlation_id)
VALUES (:id, :due_at, 'popfax.provisioning.expiry-due', :key, :value, :key)
"""
SET_REGISTRATION = "UPDATE subscribers SET registration = :registration WHERE id = :id"

_EXPIRY = UUID("6c1f0a3e-52d9-5b7c-9a1d-0e8f4b2d7c61")
_NEXT_DAYS = {None: 30, 30: 7, 7: 1, 1: 0}
_AT_ONCE = 10_000


def timer_of(id_: UUID, expires_at: datetime, reminded_days: int | None) -> dict[str, Any]:
    """Return an account's timer as a handler would have set it, had there been one."""
    due_at = expires_at - timedelta(days=_NEXT_DAYS[reminded_days])
    value = f'{{"account_id":"{id_}"}}'.encode()
    return {"id": uuid5(_EXPIRY, id_.hex), "due_at": due_at, "key": str(id_), "value": value}


def registration_of(id_: UUID, email: str, first_name: str, last_name: str, language: str) -> dict[str, Any]:
    """Return what tells a registration from another with the same id, as a handler would have kept it."""
    told = {"subscriber_id": str(id_), "email": email, "first_name": first_name, "last_name": last_name}
    content = json.dumps(told | {"language": language}, ensure_ascii=False, separators=(",", ":"))
    return {"id": id_, "registration": blake2b(content.encode(), digest_size=16).digest()}


def upgrade() -> None:
    """Apply."""
    op.execute(CHANGE)
    op.execute(FILL)
    connection = op.get_bind()
    for rows in _batches(connection, EXPIRING):
        connection.execute(sa.text(SET_TIMER), [timer_of(*row) for row in rows])
    for rows in _batches(connection, REGISTERED):
        connection.execute(sa.text(SET_REGISTRATION), [registration_of(*row) for row in rows])


def _batches(connection: sa.Connection, query: str) -> Iterator[Sequence[sa.Row[Any]]]:
    after = UUID(int=0)
    while rows := connection.execute(sa.text(f"{query} ORDER BY id LIMIT {_AT_ONCE}"), {"after": after}).all():
        yield rows
        after = rows[-1].id
