"""Retries are asked for by key, and a line of parked messages is read in order; which versions a schema supports."""

RETRY_BY_KEY = """
ALTER TABLE parked_keys ADD COLUMN retry_requested_at TIMESTAMP WITH TIME ZONE;

CREATE INDEX parked_in_line ON parked (topic, key, seq);

CREATE INDEX parked_to_retry ON parked (seq) WHERE retry_requested_at IS NOT NULL;

DROP INDEX parked_by_key;

UPDATE parked_keys SET retry_requested_at = now()
FROM parked
WHERE parked.topic = parked_keys.topic AND parked.key = parked_keys.key
    AND parked.retry_requested_at IS NOT NULL AND parked.why <> 'undecodable';

UPDATE parked SET retry_requested_at = NULL WHERE why <> 'undecodable' AND key IS NOT NULL;
"""

CREATE_SCHEMA_SUPPORT = """
CREATE TABLE schema_support (
    revision TEXT NOT NULL,
    oldest TEXT NOT NULL,
    PRIMARY KEY (revision)
);
"""
