"""The platform's keys over HTTP, from servers that do what they should not."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from services.groups.settings import GroupsSettings
from services.groups.web import keys as web_keys
from services.groups.web.auth import BadToken, Tokens
from services.groups.web.keys import Keys, NoKeys
from services.notifications.settings import NotificationsSettings
from tests.tokens import AUDIENCE, key_set, token, write_keys
from tests.unit.given import id_of

ADA = id_of("Ada")
PATIENT_S = 30.0
"""More than anything takes on a machine that stands still for seconds; what hangs would take forever."""
KAFKA = {
    "kafka_bootstrap": "127.0.0.1:1",
    "kafka_username": "x",
    "kafka_password": "x",
    "database_url": "postgresql+psycopg://x@localhost/x",
}

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A web server that answers each request as it is told at that moment."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Answering = self.good("ec")
        self.port = 0

    @property
    def place(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks.json"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def good(self, *names: str) -> Answering:
        body = key_set(*names).encode()
        return self.says(b"200 OK", body)

    def says(self, status: bytes, body: bytes, *headers: bytes) -> Answering:
        async def answer(writer: asyncio.StreamWriter) -> None:
            head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"Connection: close", *headers]
            writer.write(b"\r\n".join([*head, b"", body]))
            await writer.drain()

        return answer


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def drip(writer: asyncio.StreamWriter) -> None:
    """Each byte comes in time, and the answer never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    made = Server()
    running = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = running.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        running.close()


@asynccontextmanager
async def tokens_from(server: Server) -> AsyncIterator[Tokens]:
    made = Tokens(Keys(server.place), AUDIENCE)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    return Clock(monkeypatch)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self._ahead)

    def passes(self, seconds: float) -> None:
        self._ahead += seconds


async def refusal(tokens: Tokens, text: str) -> str:
    with pytest.raises(BadToken) as refused:
        await tokens.caller(text)
    return refused.value.code


async def test_a_hanging_server_delays_nobody_who_has_a_known_key(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server, tokens_from(server) as tokens:
        await tokens.caller(token(ADA))
        monkeypatch.setattr(web_keys, "TIMEOUT_S", 1.0)
        server.answer = hang
        clock.passes(web_keys.REFRESH_S + 1)
        begun = asyncio.get_running_loop().time()
        stranger = asyncio.create_task(refusal(tokens, token(ADA, "ec-mallory")))
        for _ in range(50):
            assert (await tokens.caller(token(ADA))).id == ADA
        assert not stranger.done(), "nobody else has waited"
        assert await stranger == "unknown_key"  # who names a key that nobody knows waits, for so long at most
        assert asyncio.get_running_loop().time() - begun < PATIENT_S
        assert server.asked == 2


async def test_many_who_wait_cause_one_fetch() -> None:
    async with serving() as server, tokens_from(server) as tokens:
        found = await asyncio.gather(*(tokens.caller(token(ADA)) for _ in range(50)))
        assert {each.id for each in found} == {ADA}
        assert server.asked == 1


async def test_one_who_gives_up_takes_the_fetch_from_nobody() -> None:
    async with serving() as server, tokens_from(server) as tokens:
        hasty, patient = (asyncio.create_task(tokens.caller(token(ADA))) for _ in range(2))
        await asyncio.sleep(0)
        hasty.cancel()
        assert (await patient).id == ADA


async def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_keys, "TIMEOUT_S", 0.5)
    async with serving() as server, tokens_from(server) as tokens:
        server.answer = drip
        begun = time.monotonic()
        with pytest.raises(NoKeys):
            await tokens.caller(token(ADA))
        assert time.monotonic() - begun < PATIENT_S


async def test_reads_no_more_than_keys_need() -> None:
    async with serving() as server, tokens_from(server) as tokens:
        server.answer = server.says(b"200 OK", b" " * (1 << 20) + key_set("ec").encode())
        with pytest.raises(NoKeys):
            await tokens.caller(token(ADA))


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
async def test_follows_no_redirect(status: bytes) -> None:
    async with serving() as server, serving() as elsewhere, tokens_from(server) as tokens:
        server.answer = server.says(status, b"", b"Location: " + elsewhere.place.encode())
        with pytest.raises(NoKeys):
            await tokens.caller(token(ADA))
        assert (server.asked, elsewhere.asked) == (1, 0)


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Internal Server Error", b"204 No Content"])
async def test_takes_keys_from_a_good_answer_alone(status: bytes) -> None:
    async with serving() as server, tokens_from(server) as tokens:
        server.answer = server.says(status, key_set("ec").encode())
        with pytest.raises(NoKeys):
            await tokens.caller(token(ADA))


async def test_a_withdrawn_key_dies_at_a_stated_age(clock: Clock) -> None:
    async with serving() as server, tokens_from(server) as tokens:
        server.answer = server.good("ec", "rsa")
        await tokens.caller(token(ADA, "rsa"))
        server.answer = server.good("ec")
        clock.passes(web_keys.REFRESH_S + 1)
        await tokens.caller(token(ADA, "ec"))  # the fetch begins beside it
        async with asyncio.timeout(PATIENT_S):
            while server.asked < 2 or await _is_good(tokens, "rsa"):  # noqa: ASYNC110 - nothing tells of a fetch
                await asyncio.sleep(0.01)
        assert await refusal(tokens, token(ADA, "rsa")) == "unknown_key"
        assert (await tokens.caller(token(ADA, "ec"))).id == ADA


async def _is_good(tokens: Tokens, key: str) -> bool:
    try:
        await tokens.caller(token(ADA, key))
    except BadToken:
        return False
    return True


async def test_no_key_outlives_its_age_while_the_platform_is_away(clock: Clock) -> None:
    async with serving() as server, tokens_from(server) as tokens:
        await tokens.caller(token(ADA))
        server.answer = server.says(b"503 Service Unavailable", b"")
        clock.passes(web_keys.LIFETIME_S - 60)
        assert (await tokens.caller(token(ADA))).id == ADA
        clock.passes(120)
        with pytest.raises(NoKeys):
            await tokens.caller(token(ADA))


async def test_learns_a_new_key_but_does_not_ask_for_each_unknown_one(clock: Clock) -> None:
    async with serving() as server, tokens_from(server) as tokens:
        await tokens.caller(token(ADA))
        server.answer = server.good("ec", "rsa")
        for _ in range(20):
            assert await refusal(tokens, token(ADA, "ec-mallory", kid=uuid4().hex)) == "unknown_key"
        assert server.asked == 1
        clock.passes(web_keys.PATIENCE_S)
        assert (await tokens.caller(token(ADA, "rsa"))).id == ADA
        assert server.asked == 2


async def test_keeps_the_keys_while_the_file_is_away(tmp_path: Path, clock: Clock) -> None:
    path = write_keys(tmp_path)
    tokens = Tokens(Keys(str(path)), AUDIENCE)
    await tokens.caller(token(ADA))
    path.unlink()
    clock.passes(web_keys.REFRESH_S + 1)
    assert (await tokens.caller(token(ADA))).id == ADA
    await asyncio.sleep(0.1)
    assert (await tokens.caller(token(ADA))).id == ADA
    await tokens.close()


GOOD = [
    "https://keys.example/jwks.json",
    "https://keys.example:8443/jwks.json",
    "http://127.0.0.1:8080/jwks.json",
    "http://127.0.0.1/jwks.json",
    "http://localhost:8080/jwks.json",
    "http://[::1]:8080/jwks.json",
]
BAD = [
    "http://keys.example/jwks.json",
    "http://127.0.0.1:80@elsewhere.example/jwks.json",
    "http://127.0.0.1@elsewhere.example/jwks.json",
    "http://localhost:80@elsewhere.example/",
    "http://127.0.0.1.elsewhere.example/jwks.json",
    "http://localhost.elsewhere.example/jwks.json",
    "http://0.0.0.0/jwks.json",
    "https://somebody:secret@keys.example/jwks.json",
    "http://elsewhere.example\\@127.0.0.1/jwks.json",
    "ftp://keys.example/jwks.json",
    "file:///etc/passwd",
    "https://",
]


@pytest.mark.parametrize("place", GOOD)
def test_an_address_is_https_or_this_machine(place: str) -> None:
    settings = GroupsSettings.model_validate({**KAFKA, "jwt_jwks": place})
    assert settings.jwt_jwks == place


@pytest.mark.parametrize("place", BAD)
def test_refuses_addresses_that_only_look_like_it(place: str) -> None:
    with pytest.raises(ValidationError):
        GroupsSettings.model_validate({**KAFKA, "jwt_jwks": place})


@pytest.mark.parametrize("field", ["password_link", "invitation_link", "group_link", "account_link"])
@pytest.mark.parametrize("place", [each for each in BAD if each != "https://"])
def test_links_in_mails_are_protected_alike(field: str, place: str) -> None:
    with pytest.raises(ValidationError):
        NotificationsSettings.model_validate({**KAFKA, "smtp_host": "x", field: place})


@pytest.mark.parametrize("place", BAD)
def test_the_platforms_site_is_protected_alike(place: str) -> None:
    with pytest.raises(ValidationError):
        GroupsSettings.model_validate({**KAFKA, "platform_url": place})
