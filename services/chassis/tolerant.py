"""Lets aiokafka survive a connection that is lost just before something is written to it.

uvloop then raises `RuntimeError`, where asyncio's own loop raises nothing. Nobody catches it, and it ends the task that
keeps the client's metadata up to date, so that the client never finds a broker again. Here it becomes what it is: a
connection error.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError


def tolerate_lost_connections() -> None:
    """Wrap aiokafka's function that writes to a connection. May be called repeatedly."""
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
