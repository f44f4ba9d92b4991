"""An SMTP server that delivers nothing: it keeps every mail it accepts as a file, and refuses on demand.

    python -m deploy.local.mailsink --port N --directory D

A mail is on the disk before its sender reads "250". Two files in D change what happens to the next mails:

- `refuse`: they are refused for now, with 451.
- `hang-after-data`: they are kept, and the connection is dropped without an answer, so that the sender can't know.
"""

import argparse
import asyncio
import os
import signal
import smtplib
import sys
import time
import uuid
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local.errors import PortTakenError, StackError
from deploy.local.paths import CHECKOUT, private_directory
from deploy.local.ports import LOOPBACK, Port, answers, is_free
from deploy.local.process import Child

REFUSE = "refuse"
HANG_AFTER_DATA = "hang-after-data"

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_GREETING_TIMEOUT_S = 2.0


class MailSink:
    """The mail sink as a process of its own. The mails that it accepted outlive everything."""

    def __init__(self, directory: Path, port: Port | None = None) -> None:
        self.mails = directory / "mails"
        self._directory = directory
        self._port = port or Port("POPFAX_SMTP_PORT")
        self._child = Child("mailsink", directory)

    @property
    def host(self) -> str:
        """Where it listens."""
        return LOOPBACK

    @property
    def port(self) -> int:
        """The port on which it listens. Known after the first start."""
        return self._port.number

    @property
    def pid(self) -> int:
        """Its process id. Raises StackError when it does not run."""
        return self._child.pid

    @property
    def refuse(self) -> Path:
        """While this file exists, mails are refused for now."""
        return self.mails / REFUSE

    @property
    def hang_after_data(self) -> Path:
        """While this file exists, mails are kept and their senders get no answer."""
        return self.mails / HANG_AFTER_DATA

    def start(self) -> None:
        """Start, and return when it greets. Raises StackError, and leaves nothing running, when it does not."""
        private_directory(self._directory)
        private_directory(self.mails)
        self._child.end_earlier()
        self._port.serve(self._start_on)

    def stop(self) -> None:
        """End it."""
        self._child.stop(signal.SIGTERM, _STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._child.kill()

    def _start_on(self, port: int) -> None:
        command = [sys.executable, "-m", "deploy.local.mailsink", "--port", str(port), "--directory", str(self.mails)]
        self._child.start(command, directory=CHECKOUT)
        try:
            self._child.wait_ready(lambda: _greets(port), _START_TIMEOUT_S)
        except StackError as error:
            if not is_free(port):
                raise PortTakenError(f"port {port} is taken") from error
            raise


def read_mails(directory: Path) -> list[EmailMessage]:
    """The mails that a sink keeps in `directory`, oldest first."""
    parser = BytesParser(policy=policy.default)
    return [parser.parsebytes(path.read_bytes()) for path in sorted(directory.glob("*.eml"))]


class KeepOnDisk:
    """What the SMTP server does with a mail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail, or refuse it. Returns the answer to its sender. aiosmtpd finds this method by its name."""
        if (self._directory / REFUSE).exists():
            return "451 4.3.0 try again later"
        content = envelope.original_content or b""
        await asyncio.to_thread(keep, content, self._directory)
        if (self._directory / HANG_AFTER_DATA).exists():
            cast(asyncio.Transport, server.transport).abort()  # what is answered below goes nowhere
        return "250 2.0.0 kept"


def keep(content: bytes, directory: Path) -> Path:
    """Write a mail as a file that is whole, and on the disk, from the moment it can be seen."""
    path = directory / f"{time.time_ns():020d}-{uuid.uuid4().hex}.eml"
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_directory(directory)
    return path


def _sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _greets(port: int) -> bool:
    if not answers(port):
        return False
    try:
        with smtplib.SMTP(LOOPBACK, port, timeout=_GREETING_TIMEOUT_S):
            return True
    except OSError:  # smtplib's errors are OSErrors
        return False


async def _serve(port: int, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    handler = KeepOnDisk(directory)
    server = await loop.create_server(lambda: SMTP(handler, hostname="localhost", enable_SMTPUTF8=True), LOOPBACK, port)
    await ended.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.mailsink", description="An SMTP server for tests.")
    parser.add_argument("--port", type=int, required=True, help="the port on the loopback interface")
    parser.add_argument("--directory", type=Path, required=True, help="where the mails are kept")
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.directory))


if __name__ == "__main__":
    main()
