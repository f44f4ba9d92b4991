"""A mail server, as far as SMTP goes: it answers slowly, refuses, closes, and breaks off wherever that may matter.

It never tells a lie: it has accepted what it answers with 250 after the content, and nothing that it refuses. Of what
it has accepted, the answer may be lost. Its replies may be late, come in pieces, or come twice.
"""

import asyncio
import re
from dataclasses import dataclass
from random import Random

from tests.simulation.hub import Hub, Process
from tests.simulation.tcp import End, Listener, Wrote

HOST, PORT = "localhost", 25

_REFUSALS = {"MAIL": ("451", "550"), "RCPT": ("450", "550"), "DATA": ("451", "554"), "content": ("452", "554")}
"""How it refuses for now, and for good."""

_EXTENSIONS = ("PIPELINING", "SIZE 10000000", "8BITMIME")

_ADDRESS = re.compile(r"<(.*?)>")


class _HangsUp(Exception):
    """The conversation is over."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How it behaves: how likely each thing is at each command, and its patience. By default it is at its best."""

    refuses: float = 0.0
    for_good: float = 0.0
    """The share of those refusals that are final."""
    leaves: float = 0.0
    """421, and the end of the connection."""
    cuts: float = 0.0
    silent: float = 0.0
    """It says no more on that connection."""
    repeats: float = 0.0
    """It says something twice."""
    slow_s: float = 0.0
    most: int = 1000
    """Mails that a connection may carry."""
    idle_s: float = 60.0
    extensions: tuple[str, ...] = _EXTENSIONS

    @classmethod
    def any(cls, random: Random) -> "Manners":
        """Return some manners."""

        def chance(*shares: float) -> float:
            return random.choice([0.0, 0.0, *shares])

        return cls(
            refuses=chance(0.05, 0.3),
            for_good=random.choice([0.0, 0.2, 0.5]),
            leaves=chance(0.02, 0.2),
            cuts=chance(0.02, 0.1, 0.3),
            silent=chance(0.02, 0.1),
            repeats=chance(0.05),
            slow_s=chance(0.05, 0.5, 5.0),
            most=random.choice([1, 3, 1000]),
            idle_s=random.choice([0.5, 3.0, 60.0]),
            extensions=random.choice([_EXTENSIONS, _EXTENSIONS, _EXTENSIONS[1:], ()]),
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """A mail that it has accepted."""

    recipient: str
    content: bytes


class MailServerModel:
    """The mail server."""

    def __init__(self, hub: Hub, wrote: Wrote) -> None:
        self.process = Process(hub, "mail server")
        self.port = Listener(self.process, self._protocol, wrote)
        hub.listening[HOST, PORT] = self.port.connect
        self.manners = Manners()
        self.accepted: list[Accepted] = []
        self._random = hub.random

    def _protocol(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader(loop=self.process.loop)
        return asyncio.StreamReaderProtocol(reader, self._serve, loop=self.process.loop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Conversation(self, reader, writer, self._random).run()
        except (_HangsUp, OSError, asyncio.IncompleteReadError):
            writer.close()


class _Conversation:
    """One connection, from its greeting to its end."""

    def __init__(
        self, server: MailServerModel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, random: Random
    ) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._random = random
        self._carried = 0
        self._sender: str | None = None
        self._recipient: str | None = None

    @property
    def _manners(self) -> Manners:
        return self._server.manners

    async def run(self) -> None:
        await self._say("220 here")
        while True:
            try:
                async with asyncio.timeout(self._manners.idle_s):
                    line = (await self._reader.readuntil(b"\r\n")).decode().strip()
            except TimeoutError:
                await self._leave()
            await self._answer(line[:4].strip().upper(), line)

    async def _answer(self, verb: str, line: str) -> None:
        self._may_break()
        if verb == "QUIT":
            await self._say("221 bye")
            raise _HangsUp
        if verb == "MAIL" and self._carried >= self._manners.most:
            await self._leave()
        if verb in _REFUSALS and (refusal := self._refusal(verb)):
            await self._say(refusal)
        elif verb in ("EHLO", "HELO"):
            lines = ["here", *(self._manners.extensions if verb == "EHLO" else ())]
            await self._say("\r\n".join([*(f"250-{each}" for each in lines[:-1]), f"250 {lines[-1]}"]))
        elif verb == "RSET":
            self._sender = self._recipient = None
            await self._say("250 forgotten")
        elif verb == "MAIL":
            await self._begin(_found(line))
        elif verb == "RCPT":
            await self._address(_found(line))
        elif verb == "DATA":
            await self._take()
        else:
            await self._say("500 what?")

    async def _begin(self, sender: str) -> None:
        if self._sender is not None:
            await self._say("503 nested MAIL")
            return
        self._sender = sender
        await self._say("250 ok")

    async def _address(self, recipient: str) -> None:
        if self._sender is None:
            await self._say("503 MAIL first")
            return
        self._recipient = recipient
        await self._say("250 ok")

    async def _take(self) -> None:
        """Take a content; some servers do even if it is for nobody."""
        recipient = self._recipient
        if recipient is None and self._random.random() < 0.8:
            await self._say("503 RCPT first")
            return
        await self._say("354 go on")
        content = (b"\r\n" + await self._reader.readuntil(b"\r\n.\r\n")).replace(b"\r\n.", b"\r\n")[2:-2]
        self._sender = self._recipient = None
        self._may_break()
        await asyncio.sleep(self._random.random() * self._manners.slow_s)
        if recipient is None:
            await self._say("554 for nobody")
            return
        if refusal := self._refusal("content"):
            await self._say(refusal)
            return
        self._server.accepted.append(Accepted(recipient, content))
        self._carried += 1
        self._may_break()
        await self._say("250 kept", may_leave=False)

    def _refusal(self, what: str) -> str:
        if self._random.random() >= self._manners.refuses:
            return ""
        return f"{_REFUSALS[what][self._random.random() < self._manners.for_good]} no"

    def _may_break(self) -> None:
        """Break off, or say no more, if this is the moment."""
        chance = self._random.random()
        if chance < self._manners.cuts:
            self._end.cut()
            raise _HangsUp
        if chance < self._manners.cuts + self._manners.silent:
            self._writer = _Mute(self._writer)  # type: ignore[assignment]

    @property
    def _end(self) -> End:
        end = self._writer.transport
        assert isinstance(end, End)
        return end

    async def _leave(self) -> None:
        self._write("421 bye")
        raise _HangsUp

    async def _say(self, reply: str, may_leave: bool = True) -> None:
        if may_leave and self._random.random() < self._manners.leaves:
            await self._leave()
        if self._manners.slow_s:
            await asyncio.sleep(self._random.random() * self._manners.slow_s)
        self._write(reply)
        if self._random.random() < self._manners.repeats:
            await asyncio.sleep(self._random.choice([0.0, 0.002, 0.1]))
            self._write(reply)

    def _write(self, reply: str) -> None:
        self._writer.write(f"{reply}\r\n".encode())


class _Mute:
    """A writer of what is never sent."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.transport = writer.transport

    def write(self, _: bytes) -> None:
        pass


def _found(line: str) -> str:
    found = _ADDRESS.search(line)
    assert found is not None
    return found[1]
