"""The mail server: a bounded number of connections that are kept open, and a bounded rate.

aiosmtplib opens a connection (TLS, EHLO, login); mails then travel over its transport by a protocol of our own, which
sends a mail's commands in one packet if the server allows it (RFC 2920). A mail's cost falls to a quarter, on both
sides.

Servers close connections that have been idle, or have carried as many mails as they like. So a connection that turns
out closed before a mail's content was handed over, or that a server asks us to leave, is replaced by a new one, and the
mail goes over that: it is no attempt that failed.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Self, cast

import aiosmtplib

from services.chassis import security
from services.notifications.settings import NotificationsSettings

CONNECT_TIMEOUT_S = 20.0

KEPT_IDLE_S = 20.0
"""How long a connection may be idle before we close it. Servers wait longer (RFC 5321 asks for five minutes)."""

NOT_GRANTED_S = 30.0
"""How long we do with fewer connections when the server opens no more."""

_DATA = b"DATA\r\n"
_GO_ON = range(300, 400)
_TEMPORARY = 400
_PERMANENT = 500
_CLOSING = 421
_LONGEST_REPLY = 32 << 10
_REPLY = re.compile(rb"(?:[2-5][0-9]{2}-[^\n]*\n)*([2-5][0-9]{2})(?: ([^\n]*))?\r?\n")
_BEGUN = re.compile(rb"(?:[2-5][0-9]{2}-[^\n]*\n)*[^\n]*")
_NOT_IN_ADDRESS = re.compile(r"[\x00-\x20\x7f<>]")


class Reply(NamedTuple):
    """A server's answer to a command; of several lines, the last one's text."""

    code: int
    text: str


class Envelope(NamedTuple):
    """A mail as the server sees it."""

    sender: str
    recipient: str
    content: bytes


class Refused(Exception):
    """The server refused a mail, for good or for now. Its text is only the code: the server's may quote the address."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.permanent = code >= _PERMANENT


class Unsendable(Exception):
    """Nobody, or not this server, can write to such an address."""


class Broken(Exception):
    """The connection broke, or was never made. `uncertain`: the server may have taken the mail."""

    def __init__(self, what: str, uncertain: bool = False) -> None:
        super().__init__(what)
        self.uncertain = uncertain


class Late(Exception):
    """It would be too late to begin with a mail, which the server has not heard of."""


class _NotGranted(Exception):
    """The server does not open one more connection, while others carry mails."""


class LockedOut(Broken):
    """The server does not take our user and password."""


class Stale(Exception):
    """A connection that has carried a mail carries no more; the server has not been given this one."""


class MailServer:
    """The mail server as one replica uses it: it keeps to the settings' number of connections and to their rate."""

    def __init__(self, settings: NotificationsSettings) -> None:
        self.settings = settings
        self._places = asyncio.Semaphore(settings.smtp_connections)
        self._kept: list[Connection] = []
        self._busy = 0
        self._pace = Pace(settings.smtp_mails_per_s)

    async def send(self, mail: Envelope, begin_by: float, within_s: float) -> Reply:
        """Send a mail once a connection is free and the rate allows. Raises `Late` after `begin_by` (the loop's clock).

        Then it takes at most `within_s`. Raises `Refused`, `Unsendable` and `Broken`.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            granted = True
            try:
                await self._pace.turn(begin_by)
                return await self._over_any(mail, loop.time() + within_s)
            except _NotGranted:
                granted = False
                loop.call_later(NOT_GRANTED_S, self._places.release)
            finally:
                if granted:
                    self._places.release()

    def close(self, idle_for_s: float = 0) -> None:
        """Close connections that have been idle for so long: all those that carry nothing, by default."""
        idle_since = asyncio.get_running_loop().time() - idle_for_s
        for connection in self._kept:
            if connection.idle_since <= idle_since or not connection.usable:
                connection.close()
        self._kept = [connection for connection in self._kept if connection.usable]

    def close_idle(self) -> None:
        """Close connections that nothing has needed for a while, before the server does."""
        self.close(KEPT_IDLE_S)

    async def _over_any(self, mail: Envelope, end_by: float) -> Reply:
        self._busy += 1
        try:
            self.close_idle()
            while self._kept:
                with suppress(Stale):
                    return await self._over(self._kept.pop(), mail, end_by)
            return await self._over(await self._another(end_by), mail, end_by)
        finally:
            self._busy -= 1

    async def _another(self, by: float) -> "Connection":
        try:
            return await Connection.open(self.settings, by)
        except Broken as error:
            if self._busy > 1:  # mails get through over the other connections, or those will find that none do
                raise _NotGranted from error
            raise

    async def _over(self, connection: "Connection", mail: Envelope, end_by: float) -> Reply:
        try:
            return await connection.send(mail, end_by)
        finally:
            if connection.usable:
                connection.idle_since = asyncio.get_running_loop().time()
                self._kept.append(connection)
            else:
                connection.close()


class Pace:
    """A bound on how many mails begin per second, whatever the number of connections.

    Each mail has a moment of its own, an interval after that of the one before. Unused moments are not saved up: there
    is no burst after a pause, nor after a restart, since the first one is an interval away.
    """

    def __init__(self, per_s: float | None) -> None:
        """Without a rate, there is no bound."""
        self._interval_s = 1 / per_s if per_s else 0.0
        self._next = asyncio.get_running_loop().time() + self._interval_s

    async def turn(self, by: float) -> None:
        """Wait for the next free moment. Raises `Late`, and leaves that moment to others, if it is after `by`."""
        now = asyncio.get_running_loop().time()
        mine = max(self._next, now)
        if mine > by:
            raise Late
        self._next = mine + self._interval_s
        if mine > now:
            await asyncio.sleep(mine - now)


class Connection(asyncio.Protocol):
    """One connection, greeted and logged in. It carries one mail after the other."""

    def __init__(self, transport: asyncio.Transport, extensions: Mapping[str, str]) -> None:
        self.idle_since = 0.0
        self._carried = False
        self._refused = False
        self._transport = transport
        self._extensions = extensions
        self._received = b""
        self._replies: deque[Reply] = deque()
        self._awaited = 0
        self._waiting: asyncio.Future[None] | None = None
        transport.set_protocol(self)

    @classmethod
    async def open(cls, settings: NotificationsSettings, by: float) -> Self:
        """Connect, greet and log in. Raises `Broken`, also for a refusal, which can't be due to a mail."""
        settings.reread()
        client = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            timeout=CONNECT_TIMEOUT_S,
            use_tls=settings.smtp_security == "tls",
            start_tls=settings.smtp_security == "starttls",
            tls_context=None if settings.smtp_security == "none" else security.client_context(settings.smtp_ca_file),
            username=settings.smtp_username,
            password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
        )
        try:
            async with asyncio.timeout_at(by):
                await client.connect()
                await _greet(client)
        except BaseException as error:
            client.close()
            if isinstance(error, aiosmtplib.SMTPAuthenticationError):
                raise LockedOut(str(error.code)) from error
            if isinstance(error, aiosmtplib.SMTPResponseException):
                raise Broken(str(error.code)) from error
            if isinstance(error, aiosmtplib.SMTPException | OSError):  # TimeoutError is one
                raise Broken(type(error).__name__) from error
            raise
        return cls(cast(asyncio.Transport, client.transport), client.esmtp_extensions)

    @property
    def usable(self) -> bool:
        """Return whether it may carry another mail: it is open, and the server has not begun to say anything."""
        return not (self._transport.is_closing() or self._received or self._replies)

    async def send(self, mail: Envelope, end_by: float) -> Reply:
        """Hand a mail over. Raises `Refused`, `Unsendable`, `Broken`, and `Stale` unless this is its first mail."""
        commands = self._commands(mail)
        first, self._carried = not self._carried, True
        handed_over = False
        try:
            async with asyncio.timeout_at(end_by):
                await self._announce(commands, first)
                self._hand_over(mail)
                handed_over = True
                reply = await self._reply()
            if reply.code >= _TEMPORARY:
                raise Refused(reply.code)
            if reply.code in _GO_ON:
                raise Broken("out of step")
            return reply
        except Refused as error:
            self._refused = True
            if str(error) == str(_CLOSING):
                self._transport.abort()
            raise
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, Broken) and not (first or handed_over):
                raise Stale from error
            if isinstance(error, Broken | TimeoutError):
                raise Broken(str(error) or type(error).__name__, handed_over) from error
            raise

    def close(self) -> None:
        """Close it, with a farewell whose answer nobody waits for."""
        if not self._transport.is_closing():
            self._transport.write(b"QUIT\r\n")
            self._transport.close()

    def _commands(self, mail: Envelope) -> list[bytes]:
        """Return what comes before a mail's content. Raises `Unsendable`."""
        if any(_NOT_IN_ADDRESS.search(address) for address in (mail.sender, mail.recipient)):
            raise Unsendable("malformed address")
        options = f" SIZE={len(mail.content)}" if "size" in self._extensions else ""
        if not (mail.sender + mail.recipient).isascii():
            if "smtputf8" not in self._extensions:
                raise Unsendable("no SMTPUTF8")
            options += " SMTPUTF8"
        said = [f"MAIL FROM:<{mail.sender}>{options}", f"RCPT TO:<{mail.recipient}>"]
        if self._refused:  # the server may still be within that mail's transaction
            said = ["RSET", *said]
        return [*(f"{command}\r\n".encode() for command in said), _DATA]

    async def _announce(self, commands: Sequence[bytes], first: bool) -> None:
        """Send the commands that come before a content. Raises `Refused` and `Broken`.

        Raises `Stale` if the server takes no more mails on a connection that has carried some.
        """
        replies: list[Reply] = []
        for group in [commands] if "pipelining" in self._extensions else [[command] for command in commands]:
            replies += await self._exchange(group)
            if replies[-1].code >= _TEMPORARY:
                break
        self._refused = False
        for command, reply in zip(commands, replies, strict=False):
            if reply.code < _TEMPORARY:
                continue
            if replies[-1].code in _GO_ON:  # it would take a content for nobody
                self._transport.abort()
            if not first and (reply.code == _CLOSING or command.startswith((b"RSET", b"MAIL"))):
                raise Broken("no more mails")
            raise Refused(reply.code)

    def _hand_over(self, mail: Envelope) -> None:
        """Send a mail's content: from here until its answer, nobody can know whether the server has taken it."""
        self._write(_stuffed(mail.content), replies=1)

    async def _exchange(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands and return the replies: fewer if the server closes the connection after a refusal."""
        self._write(b"".join(commands), replies=len(commands))
        replies: list[Reply] = []
        try:
            for command in commands:
                reply = await self._reply()
                if reply.code < _TEMPORARY and (reply.code in _GO_ON) != (command == _DATA):
                    self._transport.abort()
                    raise Broken("out of step")
                replies.append(reply)
        except Broken:
            if all(reply.code < _TEMPORARY for reply in replies):
                raise
        return replies

    def _write(self, data: bytes, replies: int) -> None:
        if self._transport.is_closing():
            raise Broken("connection lost")
        self._awaited += replies
        self._transport.write(data)

    async def _reply(self) -> Reply:
        while not self._replies:
            if self._transport.is_closing():
                raise Broken("connection lost")
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._awaited -= 1
        return self._replies.popleft()

    def data_received(self, data: bytes) -> None:
        """Take in replies. What is no reply, too long for one, or one to nothing, ends the connection.

        Any later reply could be taken for that to another command: a mail would be "sent" that the server refused.
        """
        self._received += data
        while (found := _REPLY.match(self._received)) is not None:
            self._replies.append(Reply(int(found[1]), (found[2] or b"").strip().decode(errors="replace")))
            self._received = self._received[found.end() :]
        unasked = len(self._replies) > self._awaited
        if unasked or len(self._received) > _LONGEST_REPLY or not _BEGUN.fullmatch(self._received):
            self._transport.abort()
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits for a reply."""
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


async def _greet(client: aiosmtplib.SMTP) -> None:
    """Say EHLO, unless logging in has: HELO to a server that does not know it."""
    if client.is_ehlo_or_helo_needed:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError:
            await client.helo()


def _stuffed(content: bytes) -> bytes:
    """Return a content as it is transmitted: with its end, and no line that could be taken for that (RFC 5321)."""
    if content.startswith(b"."):
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..") + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n")
