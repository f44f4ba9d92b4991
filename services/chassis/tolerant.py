"""Lets aiokafka survive a connection that was lost in the very moment before something is written to it.

uvloop raises `RuntimeError` then, where asyncio's own loop says nothing; nobody catches it, and it ends the client's
task that keeps the cluster's metadata up to date: the client never finds a broker again. It becomes the error that it
is, a broken connection.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError


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
