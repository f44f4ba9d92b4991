"""The chassis's own tables, which every service has in its database beside its business tables."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA as PG_BYTEA
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType


class Bytes(UserDefinedType[bytes]):
    """BYTEA without SQLAlchemy's per-item processing: psycopg takes and returns `bytes` as they are."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Name the column's type in DDL and casts."""
        return PG_BYTEA.__visit_name__


def timestamp() -> sa.DateTime:
    """Return the type of every point in time: with time zone."""
    return sa.DateTime(timezone=True)


# The outbox and the timers are queues: rows come and go at the rate of the messages. Vacuumed by share of the table,
# as by default, their scans would wade through dead rows most of the time.
_QUEUE = {
    "autovacuum_vacuum_scale_factor": "0.0",
    "autovacuum_vacuum_threshold": "20000",
    "autovacuum_vacuum_cost_delay": "0",
}


def storage(table: sa.Table) -> dict[str, str]:
    """Return the storage parameters of a table, for which SQLAlchemy has no place."""
    return dict(table.info.get("storage", {}))


def add_messaging_tables(metadata: sa.MetaData) -> None:
    """Declare the chassis's tables in a service's metadata."""
    sa.Table(
        "inbox",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("received_at", timestamp(), nullable=False),
        # Rows arrive in order of age, those of a batch at one moment: the index grows at its end, by a few bytes a row.
        # A BRIN index is cheaper still, but finds nothing once the room of removed rows is filled with new ones.
        sa.Index("inbox_received", "received_at"),
    )
    sa.Table(
        "outbox",
        metadata,
        # CACHE 1 (the default): with a larger cache, numbers within one key would not be in commit order.
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True, cache=1), primary_key=True),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", Bytes, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Text, nullable=False),
        sa.Column("actor", sa.Uuid),
        sa.Column("traceparent", sa.Text),
        sa.Column("made_at", timestamp(), nullable=False),
        sa.Column("requester", sa.Text),
        info={"storage": _QUEUE},
    )
    sa.Table(
        "timers",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("due_at", timestamp(), nullable=False, index=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", Bytes, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("actor", sa.Uuid),
        sa.Column("traceparent", sa.Text),
        info={"storage": _QUEUE},
    )
    sa.Table(
        "parked",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("seq", sa.BigInteger, sa.Identity(always=True, cache=1), nullable=False, unique=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("key", Bytes),
        sa.Column("value", Bytes),
        sa.Column("headers", JSONB, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("parked_at", timestamp(), nullable=False),
        sa.Column("retry_requested_at", timestamp()),
    )
    parked = metadata.tables["parked"].c
    sa.Index("parked_in_line", parked.topic, parked.key, parked.seq)
    sa.Index("parked_to_retry", parked.seq, postgresql_where=parked.retry_requested_at.is_not(None))
    sa.Table(
        "parked_keys",
        metadata,
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("key", Bytes, primary_key=True),
        sa.Column("retry_requested_at", timestamp()),
    )
    sa.Table(
        "schema_support",
        metadata,
        sa.Column("revision", sa.Text, primary_key=True),
        # The oldest revision whose code still works on this one.
        sa.Column("oldest", sa.Text, nullable=False),
    )
    sa.Table(
        "removals",
        metadata,
        sa.Column("of_table", sa.Text, primary_key=True),
        # Rows that were done before this moment may have been removed; none that was done later has been.
        sa.Column("before", timestamp(), nullable=False),
    )
    add_partition_stops(metadata)


def add_partition_stops(metadata: sa.MetaData) -> sa.Table:
    """Declare the table of stopped partitions."""
    table = sa.Table(
        "partition_stops",
        metadata,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("stopped_at", timestamp(), nullable=False),
        sa.Column("skip_to", sa.BigInteger),
        sa.Column("skip_reason", sa.Text),
        sa.Column("skip_requested_at", timestamp()),
        sa.Column("ended_at", timestamp()),
        sa.Column("outcome", sa.Text),
    )
    open_ = table.c.ended_at.is_(None)
    sa.Index("partition_stops_open", table.c.topic, table.c.partition, unique=True, postgresql_where=open_)
    return table


def add_saga_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the sagas' table, for a service that runs sagas."""
    table = sa.Table(
        "sagas",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("data", JSONB, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Uuid, nullable=False),
        sa.Column("actor", sa.Uuid),
        sa.Column("opened_at", timestamp(), nullable=False),
        sa.Column("updated_at", timestamp(), nullable=False),
        sa.Column("ended_at", timestamp()),
        sa.Column("trail", sa.Text, nullable=False),
        info={"storage": {"fillfactor": "50"}},
    )
    # Only open sagas are looked up, while most have ended. The index uses only columns that a step does not change, so
    # that updates in between stay on their page (HOT).
    sa.Index("sagas_open", table.c.opened_at, postgresql_where=table.c.ended_at.is_(None))
    # Those that ended are removed by age. A saga enters here once, when it leaves the other.
    sa.Index("sagas_ended", table.c.ended_at, postgresql_where=table.c.ended_at.is_not(None))
    return table
