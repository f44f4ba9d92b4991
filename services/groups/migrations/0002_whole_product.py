"""Invitations, transfers, history, and what groups knows of everybody; memberships that can end.

What the version before wrote is brought into line: its memberships are active ones, they and the creations that they
came from get their lines of the history, and each is told on the topic of today's members.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op

from popfax_contracts.groups import MembershipRecorded
from services.groups.domain import account_of, history_of_membership

revision = "groups_0002"
down_revision = "groups_0001"

CREATE = """
ALTER TABLE groups ADD COLUMN renamed BOOLEAN NOT NULL DEFAULT false, ADD COLUMN closed_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE groups ALTER COLUMN renamed DROP DEFAULT;

ALTER TABLE plans ADD COLUMN validity_days INTEGER NOT NULL DEFAULT 365;
ALTER TABLE plans ALTER COLUMN validity_days DROP DEFAULT;

CREATE TABLE subscribers (
    id UUID NOT NULL,
    email TEXT,
    first_name TEXT,
    last_name TEXT,
    language TEXT,
    state TEXT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    available_units BIGINT NOT NULL,
    balance_version BIGINT NOT NULL,
    PRIMARY KEY (id)
) WITH (fillfactor = 60);

-- The rest of a person comes with their next record, or when the directory is read from its start again.
INSERT INTO subscribers (id, email, state, available_units, balance_version)
SELECT subscriber_id, min(email), 'active', 0, 0 FROM addresses GROUP BY subscriber_id;

DROP TABLE addresses;

CREATE INDEX subscribers_by_email ON subscribers (email);

ALTER TABLE memberships ADD COLUMN owner_id UUID, ADD COLUMN active BOOLEAN NOT NULL DEFAULT true,
    ADD COLUMN invitation_id UUID, ADD COLUMN ended_at TIMESTAMP WITH TIME ZONE,
    ALTER COLUMN joined_at DROP NOT NULL,
    ADD CONSTRAINT member_or_invited CHECK (NOT active OR invitation_id IS NULL);
UPDATE memberships SET owner_id = known.owner_id
FROM (SELECT DISTINCT (data->>'group_id')::uuid AS group_id, (data->>'owner_id')::uuid AS owner_id FROM sagas) AS known
WHERE known.group_id = memberships.group_id;
ALTER TABLE memberships ALTER COLUMN owner_id SET NOT NULL, ALTER COLUMN active DROP DEFAULT;

CREATE TABLE invitations (
    id UUID NOT NULL,
    group_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    subscriber_id UUID NOT NULL,
    state TEXT NOT NULL,
    round INTEGER NOT NULL,
    token_hash BYTEA NOT NULL,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX invitations_pending ON invitations (group_id, subscriber_id) WHERE state = 'pending';

CREATE INDEX invitations_got ON invitations (subscriber_id) WHERE state = 'pending';

CREATE TABLE tallies (
    id UUID NOT NULL,
    pending INTEGER NOT NULL,
    day DATE NOT NULL,
    today INTEGER NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT pending_not_negative CHECK (pending >= 0)
);

CREATE TABLE transfers (
    id UUID NOT NULL,
    group_id UUID NOT NULL,
    owner_id UUID NOT NULL,
    mode TEXT NOT NULL,
    amount_units BIGINT NOT NULL,
    state TEXT NOT NULL,
    code TEXT,
    total_units BIGINT,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE TABLE history (
    id UUID NOT NULL,
    group_id UUID NOT NULL,
    kind TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor_id UUID,
    member_id UUID,
    reference_id UUID NOT NULL,
    units BIGINT,
    outcome TEXT NOT NULL,
    code TEXT,
    ended_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id)
);

CREATE INDEX history_of_group ON history (group_id, at, id);

CREATE INDEX history_of_group_by_kind ON history (group_id, kind, at, id);

CREATE INDEX ix_history_reference_id ON history (reference_id);
"""

_REMEMBER = """
INSERT INTO history (id, group_id, kind, at, actor_id, member_id, reference_id, units, outcome, code, ended_at)
VALUES (:id, :group_id, :kind, :at, :actor_id, :member_id, :reference_id, :units, :outcome, :code, :ended_at)
"""

_TELL = """
INSERT INTO outbox (id, type, key, value, correlation_id, causation_id, made_at)
VALUES (:id, :type, :key, :value, :told_by, :told_by, :made_at)
"""

ROWS_AT_ONCE = 1000


def upgrade() -> None:
    """Apply."""
    op.execute(CREATE)
    connection = op.get_bind()
    opened = "SELECT id, status, code, data, actor, opened_at, ended_at FROM sagas"
    for sagas in _in_parts(connection.execute(sa.text(opened)).all()):
        connection.execute(sa.text(_REMEMBER), [_creation(saga) for saga in sagas])
    there = "SELECT id, group_id, owner_id, member_id, epoch, joined_at FROM memberships"
    for memberships in _in_parts(connection.execute(sa.text(there)).all()):
        connection.execute(sa.text(_REMEMBER), [_membership(membership) for membership in memberships])
        connection.execute(sa.text(_TELL), [_record(membership) for membership in memberships])


def _in_parts(rows: Iterable[Any]) -> Iterable[Sequence[Any]]:
    left = iter(rows)
    while part := list(islice(left, ROWS_AT_ONCE)):
        yield part


def _creation(saga: Any) -> dict[str, Any]:
    outcome = {"completed": "created", "refused": "refused"}.get(saga.status, "pending")
    return {
        "id": saga.id,
        "group_id": UUID(saga.data["group_id"]),
        "kind": "account",
        "at": saga.opened_at,
        "actor_id": saga.actor,
        "member_id": account_of(saga.id) if outcome == "created" else None,
        "reference_id": saga.id,
        "units": saga.data["price_units"],
        "outcome": outcome,
        "code": saga.code if outcome == "refused" else None,
        "ended_at": saga.ended_at,
    }


def _membership(membership: Any) -> dict[str, Any]:
    return {
        "id": history_of_membership(membership.id, membership.epoch),
        "group_id": membership.group_id,
        "kind": "membership",
        "at": membership.joined_at,
        "actor_id": membership.owner_id,
        "member_id": membership.member_id,
        "reference_id": membership.id,
        "units": None,
        "outcome": "active",
        "code": "account_created",
        "ended_at": None,
    }


def _record(membership: Any) -> dict[str, Any]:
    told = MembershipRecorded(
        membership_id=membership.id,
        group_id=membership.group_id,
        owner_id=membership.owner_id,
        member_id=membership.member_id,
        epoch=membership.epoch,
        state="active",
        joined_at=membership.joined_at,
    )
    return {
        "id": history_of_membership(membership.id, membership.epoch),
        "type": told.TYPE,
        "key": told.key(),
        "value": told.to_json(),
        "told_by": revision,
        "made_at": membership.joined_at,
    }
