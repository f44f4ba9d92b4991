"""An SMTP server that delivers nothing: it keeps every mail it accepts as a file, and refuses on demand.

    python -m deploy.local.mailserver --port N --directory D [--certificate C --key K] [--logins L]

A mail is on the disk before its sender reads "250". Three files in D change what happens to the next mails:

- `refuse`: they are refused for now, with 451.
- `refuse-for-good`: they are refused for good, with 554.
- `hang-after-data`: they are kept, and the connection is dropped without an answer, so that the sender can't know.

With a certificate, it speaks TLS from the first byte. With logins, a file with lines such as `user:password` that is
read at each login, it takes mails from those users alone.

It stands alone: an image of its own runs it (`deploy/docker/`).
"""

import argparse
import asyncio
import os
import re
import signal
import ssl
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, AnyStr, cast
from zlib import crc32

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LOOPBACK = "127.0.0.1"

REFUSE = "refuse"
REFUSE_FOR_GOOD = "refuse-for-good"
HANG_AFTER_DATA = "hang-after-data"
JOURNAL = "journal"

_HEAD = 3
_OK = "250 OK"
"""aiosmtpd's answer to MAIL and RCPT."""
_PLAIN_ADDRESS = re.compile(r"<([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)> *")

_MAX_LINE = 998
_MAX_MAIL = 32 << 20


class Server(SMTP):
    """aiosmtpd's server, for a third of its CPU.

    It reads a content at once instead of line by line, and plain addresses without Python's parser of headers.
    """

    line_length_limit = _MAX_MAIL  # of the reader; commands have a limit of their own, and lines are checked below

    def __init__(self, handler: object, **options: Any) -> None:
        self._held: list[bytes] = []
        super().__init__(handler, **options)

    async def push(self, status: AnyStr) -> None:
        """Answer. What answers commands that arrived together travels together (RFC 2920)."""
        self._held.append(status.encode() if isinstance(status, str) else status)
        if status == _OK:
            self.loop.call_soon(self._let_go)
            return
        answers = b"\r\n".join(self._held)
        self._held.clear()
        await super().push(answers)

    def _let_go(self) -> None:
        if self._held:
            self._writer.write(b"".join(each + b"\r\n" for each in self._held))
            self._held.clear()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Read an address and what follows it. aiosmtpd finds this method by its name."""
        if plain := _PLAIN_ADDRESS.match(arg):
            return plain[1], arg[plain.end() :]
        return super()._getaddr(arg)

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
        envelope.original_content = (b"\r\n" + content[: -len(b".\r\n")]).replace(b"\r\n.", b"\r\n")[2:]
        if max(map(len, envelope.original_content.split(b"\r\n"))) > _MAX_LINE:
            status = "500 Line too long"
        else:
            status = await self._call_handler_hook("DATA")
        self._set_post_data_state()  # type: ignore[no-untyped-call]
        await self.push(status)


class KeepOnDisk:
    """What the SMTP server does with a mail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.kept = Kept(directory)
        self._arrived: list[bytes] = []
        self._written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

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
        if (self._directory / REFUSE_FOR_GOOD).exists():
            return "554 5.7.1 refused"
        await self._keep(envelope.original_content or b"")
        if (self._directory / HANG_AFTER_DATA).exists():
            cast(asyncio.Transport, server.transport).abort()  # what is written below goes nowhere
        return "250 2.0.0 kept"

    async def _keep(self, content: bytes) -> None:
        """Keep a mail, together with all that have arrived while others were being written."""
        if not self._arrived:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(loop.call_soon, self._write)  # after whatever else is to be read by now
        self._arrived.append(content)
        await asyncio.shield(self._written)  # which is the others', too

    def _write(self) -> None:
        """Write what has arrived. Nothing else is done meanwhile: a thread would cost more than it could do."""
        arrived, self._arrived = self._arrived, []
        try:
            self.kept.add(arrived)
        except OSError as error:
            self._written.set_exception(error)
        else:
            self._written.set_result(None)


class Kept:
    """The mails in a directory, as files. They are on the disk once `add` returns.

    Bringing each file, and its name, to the disk took most of the server's CPU. So mails are first appended to a
    journal, which is brought there once for all that arrived together; what a crash of the machine loses is in it.
    """

    def __init__(self, directory: Path, most: int = 256 << 20) -> None:
        """Recover what a crash may have lost. The journal is emptied when it is longer than `most` bytes."""
        self._directory = directory
        self._most = most
        self._journal = (directory / JOURNAL).open("a+b")
        self._in_journal: list[Path] = []
        _sync(directory)
        self._recover()
        self._empty_journal()

    def add(self, mails: Sequence[bytes]) -> None:
        """Keep mails. Each is whole from the moment its file can be seen."""
        named = [(f"{time.time_ns():020d}-{uuid.uuid4().hex}.eml", mail) for mail in mails]
        for name, mail in named:
            self._journal.write(f"{name} {len(mail)} {crc32(mail)}\n".encode() + mail)
        self._journal.flush()
        os.fsync(self._journal.fileno())
        for name, mail in named:
            self._write(name, mail)
        if self._journal.tell() > self._most:
            self._empty_journal()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _write(self, name: str, mail: bytes) -> None:
        path = f"{self._directory}/{name}"
        unfinished = f"{path}.unfinished"
        with open(unfinished, "wb", buffering=0) as file:  # noqa: PTH123 - paths cost as much as the file
            file.write(mail)
        os.replace(unfinished, path)  # noqa: PTH105
        self._in_journal.append(Path(path))

    def _recover(self) -> None:
        """Write the journal's mails again: its end may be half a mail, which nobody was told is kept."""
        self._journal.seek(0)
        while len(head := self._journal.readline().split()) == _HEAD:
            name, length, checksum = head
            mail = self._journal.read(int(length))
            if crc32(mail) != int(checksum):
                return
            self._write(name.decode(), mail)

    def _empty_journal(self) -> None:
        for path in self._in_journal:  # by now, the system has written most of them
            if path.exists():
                _sync(path)
        _sync(self._directory)
        self._in_journal.clear()
        self._journal.truncate(0)
        self._journal.seek(0)


def _sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Logins:
    """Who may send mails: aiosmtpd asks this at each login."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, _server: SMTP, _session: Session, _envelope: Envelope, _kind: str, data: Any) -> AuthResult:
        """Say whether these are a user's name and password."""
        known = isinstance(data, LoginPassword) and data.login + b":" + data.password in self._lines()
        return AuthResult(success=known, handled=False)

    def _lines(self) -> list[bytes]:
        return self._file.read_bytes().splitlines()


async def _serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    handler = KeepOnDisk(options.directory)
    logins = Logins(options.logins) if options.logins else None
    asked = {"authenticator": logins, "auth_required": True, "auth_require_tls": False} if logins else {}
    context = None
    if options.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate, options.key)
    server = await loop.create_server(
        lambda: Server(handler, hostname="localhost", enable_SMTPUTF8=True, **asked),
        LOOPBACK,
        options.port,
        ssl=context,
    )
    await ended.wait()
    server.close()
    handler.kept.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.mailserver", description="An SMTP server for tests.")
    parser.add_argument("--port", type=int, required=True, help="the port on the loopback interface")
    parser.add_argument("--directory", type=Path, required=True, help="where the mails are kept")
    parser.add_argument("--certificate", type=Path, help="our certificate (PEM): with it, all is TLS")
    parser.add_argument("--key", type=Path, help="its key (PEM)")
    parser.add_argument("--logins", type=Path, help="who may send mails, a line such as user:password for each")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
