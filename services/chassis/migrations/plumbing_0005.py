"""Old rows are found by their moment, and how far their removal has come is noted."""

CREATE_REMOVALS = """
CREATE TABLE IF NOT EXISTS removals (
    of_table TEXT NOT NULL,
    before TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (of_table)
);
"""

INDEX_INBOX = (
    "DROP INDEX CONCURRENTLY IF EXISTS inbox_received",
    "CREATE INDEX CONCURRENTLY inbox_received ON inbox (received_at)",
    "DROP INDEX CONCURRENTLY IF EXISTS inbox_by_age",
)
"""Outside a transaction, without a lock that anybody waits for. What an interrupted attempt left behind goes first."""

INDEX_SAGAS = (
    "DROP INDEX CONCURRENTLY IF EXISTS sagas_ended",
    "CREATE INDEX CONCURRENTLY sagas_ended ON sagas (ended_at) WHERE ended_at IS NOT NULL",
)
