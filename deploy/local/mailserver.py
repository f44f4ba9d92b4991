"""An SMTP server that delivers nothing: it keeps every mail it accepts as a file, and refuses on demand.

    python -m deploy.local.mailserver --port N --directory D

A mail is on the disk before its sender reads "250". Two files in D change what happens to the next mails:

- `refuse`: they are refused for now, with 451.
- `hang-after-data`: they are kept, and the connection is dropped without an answer, so that the sender can't know.

It stands alone: an image of its own runs it (`deploy/docker/`).
"""

import argparse
import asyncio
import os
import signal
import time
import uuid
from pathlib import Path
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

LOOPBACK = "127.0.0.1"

REFUSE = "refuse"
HANG_AFTER_DATA = "hang-after-data"


_MAX_LINE = 998
_MAX_MAIL = 32 << 20


class Server(SMTP):
    """aiosmtpd's server, which reads a mail's content at once instead of line by line: half its CPU."""

    line_length_limit = _MAX_MAIL  # of the reader; commands have a limit of their own, and lines are checked below

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        """Take a mail's content. aiosmtpd finds this method by its name."""
        envelope = cast(Envelope, self.envelope)
        if not envelope.rcpt_tos:
            await self.push("503 Error: need RCPT command")
            return
        if arg:
            await self.push("501 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content = b""
        while content != b".\r\n" and not content.endswith(b"\r\n.\r\n"):
            content += await self._reader.readuntil(b".\r\n")
        lines = content.split(b"\r\n")[:-2]
        envelope.original_content = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)
        if max(map(len, lines), default=0) > _MAX_LINE + 1:  # with a stuffed dot
            status = "500 Line too long"
        else:
            status = await self._call_handler_hook("DATA")
        self._set_post_data_state()  # type: ignore[no-untyped-call]
        await self.push(status)


class KeepOnDisk:
    """What the SMTP server does with a mail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def handle_EHLO(  # noqa: N802
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer what aiosmtpd does without saying so. It finds this method by its name."""
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the mail, or refuse it. Returns the answer to its sender. aiosmtpd finds this method by its name."""
        if (self._directory / REFUSE).exists():
            return "451 4.3.0 try again later"
        content = envelope.original_content or b""
        await asyncio.to_thread(keep, content, self._directory)
        if (self._directory / HANG_AFTER_DATA).exists():
            cast(asyncio.Transport, server.transport).abort()  # what is written below goes nowhere
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


async def _serve(port: int, directory: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    handler = KeepOnDisk(directory)
    server = await loop.create_server(
        lambda: Server(handler, hostname="localhost", enable_SMTPUTF8=True), LOOPBACK, port
    )
    await ended.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.mailserver", description="An SMTP server for tests.")
    parser.add_argument("--port", type=int, required=True, help="the port on the loopback interface")
    parser.add_argument("--directory", type=Path, required=True, help="where the mails are kept")
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.directory))


if __name__ == "__main__":
    main()
