"""Lets aiokafka survive two things that it does not expect.

A record whose header has a name that is not UTF-8. It raises from the middle of a fetch otherwise, on every fetch
again: its partition is stuck for good, and what had been drained from other partitions in the same call is passed over.
Only a fetch that holds such a name comes here; it is then read by aiokafka's parser in Python, from where the fast one
stopped.

A connection that was lost in the very moment before something is written to it. uvloop raises `RuntimeError` then,
where asyncio's own loop says nothing; nobody catches it, and it ends the client's task that keeps the cluster's
metadata up to date: the client never finds a broker again. It becomes the error that it is, a broken connection.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from struct import unpack_from
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT, _OVERHEAD = 8, 12
"""Where a batch says its length, and how many bytes that length does not count."""


def tolerate_header_names() -> None:
    """Put ours in the place of the fetcher's two classes. Harmless when repeated."""
    fetcher.MemoryRecords = _KeptRecords
    fetcher.PartitionRecords = _TolerantRecords


def tolerate_lost_connections() -> None:
    """Put ours around what writes to a connection. Harmless when repeated."""
    for name in ("send", "_send_sasl_token"):
        method = getattr(AIOKafkaConnection, name)
        if not hasattr(method, "__wrapped__"):
            setattr(AIOKafkaConnection, name, _broken_if_lost(method))


def _broken_if_lost(write: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(write)
    def tolerant(connection: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return write(connection, *arguments, **named)
        except KafkaError:  # it is a RuntimeError too
            raise
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} lost") from error

    return tolerant


class _KeptRecords:
    """A fetch's batches, as aiokafka reads them, and their bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        records = MemoryRecords(raw)
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


class _TolerantRecords(PartitionRecords):  # type: ignore[misc]
    """A partition's records of one fetch."""

    _records: Any

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except UnicodeDecodeError:
            self._records = _SlowRecords(self._records.raw)
            self._records_iterator = self._unpack_records()  # it skips what is before `next_fetch_offset`
            return super().__next__()


class _SlowRecords:
    """A fetch's batches, read in Python."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._batches = _batches(raw)
        self._next = next(self._batches, None)

    def has_next(self) -> bool:
        return self._next is not None

    def next_batch(self) -> Any:
        batch, self._next = self._next, next(self._batches, None)
        return batch


def _batches(raw: bytes) -> Iterator["_TolerantBatch"]:
    """Cut a fetch into its batches; the broker may have cut the last one short. Kafka 4 has no older format."""
    at = 0
    while at + _OVERHEAD <= len(raw):
        (length,) = unpack_from(">i", raw, at + _LENGTH_AT)
        end = at + _OVERHEAD + length
        if end > len(raw):
            return
        yield _TolerantBatch(raw[at:end])
        at = end


class _TolerantBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    r"""A batch that gives a header's name with `\xff` for what is not UTF-8."""

    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _Buffer(bytearray):
    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Bytes(found) if isinstance(at, slice) else found


class _Bytes(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")
