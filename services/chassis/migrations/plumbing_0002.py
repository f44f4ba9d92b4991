"""The plumbing's table of partitions that have stopped."""

CREATE_PARTITION_STOPS = """
CREATE TABLE partition_stops (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    position BIGINT NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    stopped_at TIMESTAMP WITH TIME ZONE NOT NULL,
    skip_to BIGINT,
    skip_reason TEXT,
    skip_requested_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    outcome TEXT,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX partition_stops_open ON partition_stops (topic, partition) WHERE ended_at IS NULL;
"""
