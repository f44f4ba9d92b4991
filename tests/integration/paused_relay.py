"""A relay in its own process that pauses, as on a frozen host, after it has read rows and before it sends any.

It prints one line per event: `holds`, then `published` or the error. With `vanish` it also discards everything that its
connections receive from then on, as if its host had gone: nothing acknowledges the servers' packets.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
import uvloop

from popfax_contracts.topics import Principal
from services.chassis import kafka, kafka_access, postgres, relay
from services.chassis.settings import ServiceSettings

SO_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A packet filter of one instruction: keep no byte."""


class Paused:
    """The paused process, as its test sees it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def says(self) -> str:
        """Wait for the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def resume(self) -> None:
        """Resume the process where it paused."""
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def paused_relay(
    settings: ServiceSettings, principal: Principal, *, fenced: bool = True, vanish: bool = False
) -> Iterator[Paused]:
    """Start a paused relay on a database; it is killed when the context ends."""
    given = settings.model_dump(mode="json") | {
        "kafka_password": kafka_access.password(settings),
        "database_url": settings.database_url.get_secret_value(),
    }
    told = json.dumps({"settings": given, "principal": principal, "fenced": fenced, "vanish": vanish})
    command = [sys.executable, "-m", "tests.integration.paused_relay"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        print(told, file=process.stdin, flush=True)
        try:
            yield Paused(process)
        finally:
            process.kill()
            process.wait()


def vanish() -> None:
    """Discard everything that this process's connections receive."""
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # it was closed meanwhile
            if str(path.readlink()).startswith("socket:"):
                discard(int(path.name))


def discard(descriptor: int) -> None:
    """Discard everything that a connection receives from now on, before anything can acknowledge it."""
    program = ctypes.create_string_buffer(_DROP_ALL)
    with socket.socket(fileno=os.dup(descriptor)) as found:
        if found.family == socket.AF_INET:
            pointer = struct.pack("HP", 1, ctypes.addressof(program))
            found.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)


def main() -> None:
    told = json.loads(sys.stdin.readline())
    publish, producer = relay.publish, kafka.producer

    async def paused(made: Any, rows: Sequence[relay.Unsent], principal: Principal) -> None:
        print("holds", flush=True)
        if told["vanish"]:
            vanish()
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            await publish(made, rows, principal)
        except BaseException as error:
            print(type(error).__name__, flush=True)
            raise
        print("published", flush=True)

    async def unfenced(settings: ServiceSettings, fence: str | None = None) -> Any:
        return await producer(settings)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    relay.ANSWER_S = 60  # the broker must refuse it, not its own clock
    relay.publish = paused  # type: ignore[assignment]
    if not told["fenced"]:
        kafka.producer = unfenced  # type: ignore[assignment]
    settings = ServiceSettings.model_validate(told["settings"])
    engine = postgres.engine(settings.database_url.get_secret_value(), 3)
    uvloop.run(relay.Relay(Principal(told["principal"]), engine, settings).run())


if __name__ == "__main__":
    main()
