"""The plumbing's tables as of its first version: every service's first migration makes them.

A later change of the plumbing is a new file like this one, called by a new migration of each service.
"""

CREATE_PLUMBING = """
CREATE TABLE inbox (
    id UUID NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX inbox_by_age ON inbox USING brin (received_at);

CREATE TABLE outbox (
    seq BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1),
    id UUID NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    value BYTEA NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT NOT NULL,
    actor UUID,
    traceparent TEXT,
    made_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (seq)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE timers (
    id UUID NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    value BYTEA NOT NULL,
    correlation_id TEXT NOT NULL,
    actor UUID,
    traceparent TEXT,
    PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX ix_timers_due_at ON timers (due_at);

CREATE TABLE parked (
    id UUID NOT NULL,
    seq BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1),
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position BIGINT NOT NULL,
    key BYTEA,
    value BYTEA,
    headers JSONB NOT NULL,
    why TEXT NOT NULL,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER DEFAULT '1' NOT NULL,
    parked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    retry_requested_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (id),
    UNIQUE (seq)
);

CREATE INDEX parked_by_key ON parked (topic, key);

CREATE TABLE parked_keys (
    topic TEXT NOT NULL,
    key BYTEA NOT NULL,
    PRIMARY KEY (topic, key)
);
"""
