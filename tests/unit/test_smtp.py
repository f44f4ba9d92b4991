"""How mails travel to a mail server, against servers that misbehave in the ways that real ones do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from services.notifications import smtp
from services.notifications.settings import NotificationsSettings
from services.notifications.smtp import Broken, Envelope, Late, MailServer, Refused, Reply, Unsendable

Answers = Callable[["Client", str], str | None]
"""What a server says to a command, "content" after a mail's content: None for what it ordinarily says, "" for nothing
and the end of the connection."""

PATIENT_S = 20.0


@dataclass
class Client:
    """A connection as the server sees it."""

    number: int
    mails: int = 0
    commands: list[str] = field(default_factory=list)
    in_transaction: bool = False


@dataclass
class Server:
    """An SMTP server that keeps what it is given, and answers as a test says."""

    answers: Answers = lambda _client, _command: None
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 10000000", "SMTPUTF8")
    delay_s: float = 0.0
    in_pieces: bool = False
    """Whether each octet is a packet of its own."""
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    began_at: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    most_clients: int = 1000
    open: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(len(self.clients))
        self.clients.append(client)
        self.open += 1
        try:
            if self.open > self.most_clients:
                writer.write(b"421 too many connections\r\n")
                return
            writer.write(b"220 here\r\n")
            await self._converse(client, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()
            self.left.set()

    async def _converse(self, client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            client.commands.append(line)
            said = self.answers(client, line) or self._ordinarily(client, line)
            if said.startswith("354"):
                await self._say(said, writer)
                content = await self._content(reader)
                self.most_at_once, self.at_once = max(self.most_at_once, self.at_once + 1), self.at_once + 1
                await asyncio.sleep(self.delay_s)
                self.at_once -= 1
                client.in_transaction = False
                said = self.answers(client, "content") or "250 kept"
                if said.startswith("250"):
                    client.mails += 1
                    self.contents.append(content)
            if said == "break":
                writer.transport.abort()
                return
            await self._say(said, writer)
            if said.startswith(("221", "421")):
                return

    async def _say(self, said: str, writer: asyncio.StreamWriter) -> None:
        data = f"{said}\r\n".encode()
        for piece in [data[n : n + 1] for n in range(len(data))] if self.in_pieces else [data]:
            writer.write(piece)
            await asyncio.sleep(0)

    def _ordinarily(self, client: Client, line: str) -> str:
        verb = line.partition(" ")[0]
        if verb == "EHLO":
            return "\r\n".join([*(f"250-{each}" for each in self.extensions), "250 HELP"])
        if verb == "MAIL":
            if client.in_transaction:
                return "503 nested MAIL"
            client.in_transaction = True
            self.began_at.append(asyncio.get_running_loop().time())
        if verb == "RSET":
            client.in_transaction = False
        return {"DATA": "354 go on", "QUIT": "221 bye"}.get(verb, "250 fine")

    async def _content(self, reader: asyncio.StreamReader) -> bytes:
        """Read a mail's content, and undo the stuffing of dots."""
        lines = []
        while (line := await reader.readuntil()) != b".\r\n":  # which raises at the end, unlike `readline`
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


def mail_server(server: Server, **more: Any) -> MailServer:
    given = {
        "kafka_bootstrap": "127.0.0.1:1",
        "kafka_username": "x",
        "kafka_password": "x",
        "database_url": "postgresql+psycopg://x@localhost/x",
    }
    settings = given | {"smtp_host": "127.0.0.1", "smtp_port": server.port} | more
    return MailServer(NotificationsSettings.model_validate(settings))


def mail(number: int = 0, recipient: str = "b@c.example") -> Envelope:
    return Envelope("a@b.example", recipient, f"Subject: {number}\r\n\r\n.\r\n..x\r\n".encode())


async def send(to: MailServer, mail: Envelope, within_s: float = PATIENT_S) -> Reply:
    return await to.send(mail, asyncio.get_running_loop().time() + PATIENT_S, within_s)


async def send_all(to: MailServer, mails: list[Envelope]) -> list[Any]:
    return await asyncio.gather(*(send(to, each) for each in mails), return_exceptions=True)


MANY = [mail(number) for number in range(40)]


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["in one packet", "one by one"])
async def test_a_mail_arrives_as_it_is(server: Server, extensions: tuple[str, ...]) -> None:
    server.extensions = extensions
    to = mail_server(server)
    assert [(await send(to, mail(number))).code for number in range(3)] == [250] * 3
    assert server.contents == [mail(number).content for number in range(3)]
    assert len(server.clients) == 1, "one connection carries one mail after the other"


@pytest.mark.parametrize("says", ["{}", "{} ", "{} fine", "{0}-one\r\n{0}-\r\n{0} two"])
@pytest.mark.parametrize("in_pieces", [True, False])
async def test_a_reply_may_have_any_form_and_any_number_of_packets(server: Server, says: str, in_pieces: bool) -> None:
    codes = {"MAIL": 250, "RCPT": 251, "DATA": 354, "cont": 250}
    server.in_pieces = in_pieces
    server.answers = lambda _client, command: says.format(codes[command[:4]]) if command[:4] in codes else None
    to = mail_server(server)
    assert [(await send(to, mail(number))).code for number in range(3)] == [250] * 3
    assert server.contents == [mail(number).content for number in range(3)]


async def test_there_are_as_many_connections_as_the_settings_say_and_they_are_kept(server: Server) -> None:
    server.delay_s = 0.01
    to = mail_server(server, smtp_connections=4)
    await send_all(to, MANY)
    await send_all(to, MANY)
    assert sorted(server.contents) == sorted(each.content for each in MANY * 2)
    assert (len(server.clients), server.most_at_once) == (4, 4)
    to.close()


async def test_a_connection_that_dies_takes_one_mail_with_it_and_the_others_go_on(server: Server) -> None:
    server.delay_s = 0.005
    server.answers = lambda client, command: (
        "break" if (client.number, client.mails, command) == (1, 3, "content") else None
    )
    answers = await send_all(mail_server(server, smtp_connections=4), MANY)
    (broken,) = [answer for answer in answers if not isinstance(answer, Reply)]
    assert isinstance(broken, Broken)
    assert broken.uncertain, "nobody knows whether the server kept it"
    assert len(server.contents) == len(MANY) - 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        *(("MAIL", says) for says in ("421 enough", "452 too many mails", "554 too many mails", "break")),
        *((command, says) for command in ("RCPT", "DATA") for says in ("421 enough", "break")),
    ],
)
async def test_a_server_that_takes_a_few_mails_per_connection_gets_all_of_them(
    server: Server, command: str, says: str
) -> None:
    server.answers = lambda client, said: says if client.mails == 5 and said.startswith(command) else None
    answers = await send_all(mail_server(server, smtp_connections=2), MANY)
    assert [answer for answer in answers if not isinstance(answer, Reply)] == []
    assert sorted(server.contents) == sorted(each.content for each in MANY), "each of them once"
    assert len(server.clients) in (8, 9)


async def test_a_connection_that_the_server_closed_meanwhile_is_no_failed_attempt(server: Server) -> None:
    server.answers = lambda client, command: (
        "421 idle for too long" if command == "content" and not client.mails else None
    )
    to = mail_server(server)
    with pytest.raises(Refused):
        await send(to, mail())
    server.answers = lambda _client, _command: None
    await send(to, mail())
    assert len(server.clients) == 2


async def test_an_idle_connection_is_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    to = mail_server(server)
    await send(to, mail())
    to.close_idle()
    assert server.open == 1
    monkeypatch.setattr(smtp, "KEPT_IDLE_S", 0)
    to.close_idle()
    async with asyncio.timeout(PATIENT_S):
        await server.left.wait()
    assert server.clients[0].commands[-1] == "QUIT"


async def test_the_rate_is_kept_over_all_connections(server: Server) -> None:
    server.delay_s = 0.02
    to = mail_server(server, smtp_connections=8, smtp_mails_per_s=100)
    begun = asyncio.get_running_loop().time()
    await send_all(to, MANY)
    took_s = asyncio.get_running_loop().time() - begun
    assert took_s >= len(MANY) / 100 - 0.01, "the first one waits for its turn, too: a restart earns nothing"
    for n, began_at in enumerate(sorted(server.began_at), 1):
        assert n <= (began_at - begun) * 100 + 0.1


async def test_turns_are_an_interval_apart_and_none_is_saved_up() -> None:
    pace = smtp.Pace(50)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.2)
    begun = loop.time()
    for n in range(6):
        await pace.turn(begun + PATIENT_S)
        assert loop.time() - begun >= n * 0.02 - 0.001
    with pytest.raises(Late):
        await smtp.Pace(0.1).turn(loop.time() + 5)  # the first turn is in ten seconds


async def test_a_slow_server_gets_no_mail_too_late_and_each_its_time(server: Server) -> None:
    server.delay_s = 0.2
    to = mail_server(server, smtp_connections=1)
    now = asyncio.get_running_loop().time()
    begin_by = [now + PATIENT_S] * 2 + [now + 0.3] * 3  # the first two take 0.4 s at least
    sent = (to.send(mail(n), by, PATIENT_S) for n, by in enumerate(begin_by))
    answers = await asyncio.gather(*sent, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Reply, Reply, Late, Late, Late]
    server.delay_s = 3.0
    with pytest.raises(Broken) as broken:
        await send(to, mail(), within_s=1.0)
    assert broken.value.uncertain
    server.delay_s = 0.0
    await send(to, mail())


async def test_a_server_that_is_silent_has_not_taken_the_mail(server: Server) -> None:
    server.answers = lambda _client, command: "250-never ends" if command.startswith("RCPT") else None
    with pytest.raises(Broken) as broken:
        await send(mail_server(server), mail(), within_s=0.1)
    assert not broken.value.uncertain


async def test_a_server_that_allows_fewer_connections_gets_all_mails_over_those(server: Server) -> None:
    server.delay_s, server.most_clients = 0.01, 2
    answers = await send_all(mail_server(server, smtp_connections=8), MANY)
    assert [answer for answer in answers if not isinstance(answer, Reply)] == []
    assert server.most_at_once == 2
    assert len(server.clients) == 8, "the six that were turned away are not tried again at once"


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["in one packet", "one by one"])
@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "content"])
@pytest.mark.parametrize(("code", "permanent"), [(550, True), (450, False)])
async def test_a_refusal_concerns_one_mail(
    server: Server, extensions: tuple[str, ...], command: str, code: int, permanent: bool
) -> None:
    server.extensions = extensions
    refused = f"{code} not b@c.example"
    server.answers = lambda _client, said: refused if said.startswith(command) else None
    to = mail_server(server, smtp_connections=1)
    with pytest.raises(Refused) as caught:
        await send(to, mail())
    assert (caught.value.permanent, str(caught.value)) == (permanent, str(code)), "the text quotes no address"
    server.answers = lambda _client, _command: None
    assert (await send(to, mail(1))).code == 250
    assert server.contents == [mail(1).content]


async def test_a_refusal_before_the_connection_closes_is_heard(server: Server) -> None:
    def answers(_client: Client, command: str) -> str | None:
        return "550 no" if command.startswith("MAIL") else "break" if command.startswith("RCPT") else None

    server.answers = answers
    with pytest.raises(Refused) as caught:
        await send(mail_server(server), mail())
    assert caught.value.permanent


async def test_an_address_beyond_ascii_needs_a_server_for_it(server: Server) -> None:
    to = mail_server(server)
    await send(to, mail(recipient="weiß@c.example"))
    assert "MAIL FROM:<a@b.example> SIZE=22 SMTPUTF8" in server.clients[0].commands
    server.extensions = ()
    with pytest.raises(Unsendable):
        await send(mail_server(server), mail(recipient="weiß@c.example"))


@pytest.mark.parametrize("address", ["a@b.example>\r\nRCPT TO:<c@d.example", "a b@c.example", "a@b.example\r\nDATA"])
async def test_no_address_begins_a_command(server: Server, address: str) -> None:
    with pytest.raises(Unsendable):
        await send(mail_server(server), mail(recipient=address))
    assert not any("RCPT" in command for client in server.clients for command in client.commands)


@pytest.mark.parametrize("nonsense", ["hello", "250-" + "x" * 40_000, "12 short", "2500 long", "999 no", "100 wait"])
@pytest.mark.parametrize("command", ["MAIL", "content"])
async def test_what_is_no_reply_ends_the_connection(server: Server, nonsense: str, command: str) -> None:
    server.answers = lambda _client, said: nonsense if said.startswith(command) else None
    with pytest.raises(Broken) as broken:
        await send(mail_server(server), mail())
    assert broken.value.uncertain == (command == "content")


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()], ids=["in one packet", "one by one"])
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("MAIL", "250 fine\r\n250 once more"),
        ("RCPT", "250 fine\r\n250 once more"),
        ("DATA", "354 go on\r\n250 kept before it was sent"),
        ("DATA", "250 not what DATA is answered"),
        ("MAIL", "354 go on"),
        ("RCPT", "354 go on"),
    ],
)
async def test_a_server_out_of_step_is_believed_nothing_and_given_nothing(
    server: Server, extensions: tuple[str, ...], command: str, says: str
) -> None:
    server.extensions = extensions
    server.answers = lambda _client, said: (
        says if said.startswith(command) else "554 not this one" if said == "content" else None
    )
    with pytest.raises(Broken) as broken:
        await send(mail_server(server), mail())
    assert not broken.value.uncertain
    assert not any("Subject" in command for client in server.clients for command in client.commands)


async def test_a_server_that_answers_a_content_with_go_on_may_have_taken_it(server: Server) -> None:
    server.answers = lambda _client, command: "354 go on" if command == "content" else None
    with pytest.raises(Broken) as broken:
        await send(mail_server(server), mail())
    assert broken.value.uncertain


@pytest.mark.parametrize("unasked", ["250 kept, as I said", "421 idle for too long", "250-"])
async def test_what_a_server_says_unasked_answers_no_other_mail(server: Server, unasked: str) -> None:
    def answers(client: Client, command: str) -> str | None:
        if client.number:
            return None
        return f"250 kept\r\n{unasked}" if command == "content" else "550 never" if client.mails else None

    server.answers = answers
    to = mail_server(server)
    for number in range(3):
        await send(to, mail(number))
    assert server.contents == [mail(number).content for number in range(3)]
    assert len(server.clients) == 2
    async with asyncio.timeout(PATIENT_S):
        while server.open > 1:
            server.left.clear()
            await server.left.wait()


async def test_a_server_that_is_away_breaks_nothing_else(server: Server) -> None:
    server.port = 1
    with pytest.raises(Broken) as broken:
        await send(mail_server(server), mail())
    assert not broken.value.uncertain
