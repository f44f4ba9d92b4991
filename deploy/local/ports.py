"""The TCP ports of the local stack: named in the environment, or picked."""

import os
import random
import socket
from collections import deque
from collections.abc import Callable

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.errors import PortTakenError, StackError

LOOPBACK = "127.0.0.1"

# Below the range from which Linux (32768…) and macOS (49152…) take the ports of outgoing connections. A server whose
# port is in that range can find it taken, after a crash, by one of the clients that try to reach it.
_PICKED_FROM = range(15_000, 32_000)
_ATTEMPTS = 20

_RESERVATIONS = 100
_reserved: deque[int] = deque()


class Ports(BaseSettings):
    """The ports that were asked for, from `POPFAX_KAFKA_PORT`, `POPFAX_POSTGRES_PORT` and `POPFAX_SMTP_PORT`.

    None means that any free one will do.
    """

    model_config = SettingsConfigDict(env_prefix="POPFAX_")

    kafka_port: int | None = Field(default=None, ge=1, le=65535)
    postgres_port: int | None = Field(default=None, ge=1, le=65535)
    smtp_port: int | None = Field(default=None, ge=1, le=65535)

    @classmethod
    def from_environment(cls) -> "Ports":
        """Read the environment. Raises StackError, naming the variable, on what is no port."""
        try:
            return cls()
        except ValidationError as error:
            wrong = error.errors()[0]
            setting = f"POPFAX_{wrong['loc'][0]}".upper()
            raise StackError(f"{setting}={wrong['input']} is no port: {wrong['msg']}") from error


class Port:
    """A server's port. Once the server has started on it, it stays the same through every restart.

    `setting` is the environment variable that names it, for the error message; `named` is its value, if it has one.
    """

    def __init__(self, setting: str, named: int | None = None) -> None:
        self._setting = setting
        self._number = named

    @property
    def number(self) -> int:
        """The port. Raises StackError when none was named and none has been picked yet."""
        if self._number is None:
            raise StackError(f"the port of {self._setting} is known only after the start")
        return self._number

    def serve(self, start: Callable[[int], None]) -> None:
        """Call `start` with the port, or, when none is settled, with free ones until it works.

        `start` raises PortTakenError when somebody else was faster. Raises StackError when the settled port is taken.
        """
        if self._number is not None:
            self._serve_settled(self._number, start)
            return
        for _ in range(_ATTEMPTS):
            picked = free_port()
            try:
                start(picked)
            except PortTakenError:
                continue
            self._number = picked
            return
        raise StackError(f"found no free port for {self._setting}")

    def _serve_settled(self, number: int, start: Callable[[int], None]) -> None:
        taken = StackError(f"{self._setting}={number}: port {number} on {LOOPBACK} is taken by another program")
        if not is_free(number):
            raise taken
        try:
            start(number)
        except PortTakenError as error:
            raise taken from error


def free_port() -> int:
    """Pick a port that is free, and that nobody else picks by this function until a server may listen on it.

    Raises StackError when none is found.
    """
    for _ in range(_ATTEMPTS):
        number = random.choice(_PICKED_FROM)
        if is_free(number) and _reserve(number):
            return number
    raise StackError(f"found no free port between {_PICKED_FROM.start} and {_PICKED_FROM.stop - 1}")


def _reserve(number: int) -> bool:
    """Say whether nobody has reserved a port, in any process: whoever has holds its number for UDP.

    A reservation ends with the process, or after so many others that its server has begun long since.
    """
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        held.bind((LOOPBACK, number))
    except OSError:
        held.close()
        return False
    _reserved.append(held.detach())
    if len(_reserved) > _RESERVATIONS:
        os.close(_reserved.popleft())
    return True


def is_free(number: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: the remains of closed connections don't count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
            probe.listen(1)
        except OSError:
            return False
    return True


def answers(number: int) -> bool:
    """Return whether something listens on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, number)) == 0
