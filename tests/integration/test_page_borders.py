"""Who gets in, for how long and how often: the page and the API on a real database, two replicas beside each other."""

import http.client
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
import pytest_asyncio
from jwt.utils import base64url_decode, base64url_encode
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import AccountState
from services.groups.web.app import Web
from services.groups.web.limits import network_of
from tests.e2e.driver import wait
from tests.integration.recorder import plain, scratch_database
from tests.integration.seeding import group, person, seed
from tests.integration.serving import WITHIN_S, Client, serving
from tests.tokens import token

ADA, BOB, EVE = person("Ada"), person("Bob"), person("Eve")
HERE = "groups.example"


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    await seed(made, [ADA, BOB, EVE, group(ADA), group(BOB)])
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def client(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serving(url, tmp_path_factory.mktemp("keys"), trusted_proxies="127.0.0.1") as made:
        yield made


@pytest.fixture(scope="module")
def replica(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Another process's worth of the same service, on the same database."""
    with serving(url, tmp_path_factory.mktemp("keys")) as made:
        yield made


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class Browser:
    """Somebody's browser: it keeps cookies, and no more than it must."""

    client: Client
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, form: Mapping[str, str] | Sequence[tuple[str, str]] | None = None, **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection(self.client.host, self.client.port, timeout=WITHIN_S)
        sent = {"Host": HERE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, urlencode(form) if form is not None else None, sent)
            found = connection.getresponse()
            answer = Answer(found.status, found.getheaders(), found.read().decode())
        finally:
            connection.close()
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                content = rest.partition(";")[0].strip('"')
                self.cookies = {k: v for k, v in {**self.cookies, key: content}.items() if v}
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def log_in(self, text: str, **headers: str) -> Answer:
        return self.get(f"/login?{urlencode({'token': text})}", **headers)

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        return self.ask("POST", path, form or {}, **headers)

    def proof(self) -> str:
        return _field(self.get("/").text, "proof")

    def at(self, client: Client) -> "Browser":
        """The same browser, at another replica."""
        return Browser(client, dict(self.cookies))


def _field(text: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]+)"', text)
    assert found, text
    return found[1]


@pytest.fixture
def ada(client: Client) -> Browser:
    made = Browser(client)
    assert made.log_in(token(ADA.id)).status == 303
    return made


# --- a token opens the page once --------------------------------------------------------------------------------------


def test_the_cookie_is_no_token(client: Client) -> None:
    browser, text = Browser(client), token(ADA.id)
    answer = browser.log_in(text)
    assert (answer.status, answer.header("location")) == (303, "/")
    assert browser.cookies.keys() == {"popfax"}
    assert browser.cookies["popfax"] not in text
    assert client.with_(browser.cookies["popfax"]).get("/v1/units").problem[0] == 401
    assert browser.get("/").status == 200
    assert Browser(client, {"popfax": text}).get("/").status == 401


def test_a_token_opens_the_page_once_on_all_replicas(client: Client, replica: Client) -> None:
    text = token(ADA.id)
    assert Browser(client).log_in(text).status == 303
    for place in (client, replica):
        thief = Browser(place)
        answer = thief.log_in(text)
        assert (answer.status, thief.cookies) == (401, {})
        assert "déjà servi" in answer.text


def test_of_many_who_come_with_one_token_one_gets_in(client: Client, replica: Client) -> None:
    text, found = token(ADA.id), []
    browsers = [Browser(place) for place in (client, replica) for _ in range(6)]
    threads = [threading.Thread(target=lambda b=each: found.append(b.log_in(text).status)) for each in browsers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [303, *[401] * 11]


def test_another_signature_makes_no_other_token(client: Client) -> None:
    """Of an ES256 signature (r, s) anybody can make a second good one: (r, n - s)."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    text = token(ADA.id)
    signed, _, signature = text.rpartition(".")
    raw = base64url_decode(signature)
    other = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    twin = f"{signed}.{base64url_encode(other).decode()}"
    assert twin != text
    assert client.with_(twin).get("/v1/units").status == 200, "the twin is a good token, else this shows nothing"
    assert Browser(client).log_in(text).status == 303
    assert Browser(client).log_in(twin).status == 401


def test_a_token_that_opened_the_page_opens_nothing_else(client: Client, replica: Client) -> None:
    text = token(ADA.id)
    assert client.with_(text).get("/v1/units").status == 200
    assert Browser(client).log_in(text).status == 303
    for place in (client, replica):
        assert place.with_(text).get("/v1/units").problem == (401, "token_spent")
        assert place.with_(text).get("/v1/plans").problem == (401, "token_spent")
        assert place.with_(text).post("rename-group", {"name": "Stolen"}).problem == (401, "token_spent")


def test_the_link_leads_on_whoever_it_let_in(client: Client) -> None:
    browser, text = Browser(client), token(ADA.id)
    browser.log_in(text)
    before = dict(browser.cookies)
    assert browser.log_in(text).header("location") == "/"
    assert browser.cookies == before


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"sec_purpose": "prefetch"}),
        ("GET", {"sec_purpose": "prefetch;prerender"}),
        ("GET", {"purpose": "prefetch"}),
        ("GET", {"sec_fetch_dest": "image"}),
        ("GET", {"sec_fetch_dest": "iframe"}),
        ("GET", {"sec_fetch_dest": "empty"}),
    ],
)
def test_a_look_at_the_link_spends_nothing(client: Client, method: str, headers: dict[str, str]) -> None:
    text, path = token(ADA.id), "/login?"
    looked = Browser(client)
    assert looked.ask(method, path + urlencode({"token": text}), None, **headers).status == 403
    assert looked.cookies == {}
    assert Browser(client).log_in(text).status == 303


# --- a visit ends -----------------------------------------------------------------------------------------------------


def test_logging_out_ends_the_visit_on_all_replicas(ada: Browser, replica: Client) -> None:
    copied = ada.at(replica)
    assert copied.get("/").status == 200
    assert ada.post("/logout", {"proof": ada.proof()}).status == 303
    assert ada.cookies == {}
    assert copied.get("/").status == 401


def test_logging_out_ends_the_streams_of_the_visit(ada: Browser, replica: Client) -> None:
    listening = http.client.HTTPConnection(replica.host, replica.port, timeout=WITHIN_S)
    listening.request("GET", "/events", headers={"Cookie": f"popfax={ada.cookies['popfax']}"})
    stream = listening.getresponse()
    assert stream.status == 200
    stream.readline()
    ada.post("/logout", {"proof": ada.proof()})
    begun = time.monotonic()
    stream.read()
    listening.close()
    assert time.monotonic() - begun < 10


def test_a_visit_lasts_as_long_as_its_token_and_not_for_days(client: Client) -> None:
    browser = Browser(client)
    answer = browser.log_in(token(ADA.id, exp=datetime.now(UTC) + timedelta(days=300)))
    assert int(re.search(r"Max-Age=(\d+)", answer.header("set-cookie") or "")[1]) <= 13 * 3600  # type: ignore[index]
    short = Browser(client)
    short.log_in(token(ADA.id, exp=datetime.now(UTC) + timedelta(seconds=5)))
    assert short.get("/").status == 200
    wait(lambda: short.get("/").status == 401, "the token's end")


def test_closing_the_account_ends_its_visits_and_their_streams(
    client: Client, replica: Client, url: str, engine: AsyncEngine
) -> None:
    browser, elsewhere = Browser(client), Browser(replica)
    for each in (browser, elsewhere):
        assert each.log_in(token(EVE.id)).status == 303
    listening = http.client.HTTPConnection(replica.host, replica.port, timeout=WITHIN_S)
    listening.request("GET", "/events", headers={"Cookie": f"popfax={elsewhere.cookies['popfax']}"})
    stream = listening.getresponse()
    stream.readline()
    with psycopg.connect(plain(url)) as connection:
        connection.execute("UPDATE subscribers SET state = %s WHERE id = %s", (AccountState.CLOSED.value, EVE.id))
    stream.read()  # ends
    listening.close()
    assert [each.get("/").status for each in (browser, elsewhere)] == [401, 401]
    again = Browser(client)
    again.log_in(token(EVE.id))
    assert again.get("/").status == 401, "a token that is still good"


def test_nothing_that_opens_a_visit_is_kept(ada: Browser, url: str) -> None:
    with psycopg.connect(plain(url)) as connection:
        rows = connection.execute("SELECT id, token FROM sessions").fetchall()
    assert rows
    assert not any(ada.cookies["popfax"].encode() in part for row in rows for part in row)


# --- nobody's visit is taken over unasked -----------------------------------------------------------------------------


def test_a_link_for_somebody_else_asks_first(ada: Browser) -> None:
    before, text = dict(ada.cookies), token(BOB.id)
    asked = ada.log_in(text, sec_fetch_site="cross-site", referer="https://evil.example/")
    assert (asked.status, ada.cookies) == (200, before)
    assert "Ada Of-Ada" in asked.text
    assert "Bob Of-Bob" in asked.text
    assert "token" not in (asked.header("referrer-policy") or "")
    assert "Ada" in ada.get("/").text
    confirmed = ada.post(
        "/login", {"token": _field(asked.text, "token"), "proof": _field(asked.text, "proof")}, origin=f"http://{HERE}"
    )
    assert confirmed.status == 303
    assert "Bob" in ada.get("/").text
    assert Browser(ada.client, before).get("/").status == 401, "the visit before goes on"
    assert Browser(ada.client).log_in(text).status == 401


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}])
def test_no_other_site_can_confirm_it(ada: Browser, headers: dict[str, str]) -> None:
    before = dict(ada.cookies)
    proof = ada.proof()
    assert ada.post("/login", {"token": token(BOB.id), "proof": proof}, **headers).status == 403
    assert ada.post("/login", {"token": token(BOB.id), "proof": "guessed"}).status == 403
    assert Browser(ada.client).post("/login", {"token": token(BOB.id)}).status == 401
    assert ada.cookies == before


def test_coming_again_oneself_needs_no_confirmation(ada: Browser) -> None:
    before = dict(ada.cookies)
    assert ada.log_in(token(ADA.id)).status == 303
    assert ada.cookies != before
    assert Browser(ada.client, before).get("/").status == 401


# --- behind a proxy ---------------------------------------------------------------------------------------------------


def test_behind_a_trusted_proxy_the_cookie_is_for_this_host_and_for_tls_alone(client: Client) -> None:
    browser = Browser(client)
    given = browser.log_in(token(ADA.id), x_forwarded_proto="https").header("set-cookie") or ""
    assert given.startswith("__Host-popfax=")
    assert "secure" in given.lower()
    assert browser.get("/", x_forwarded_proto="https").status == 200
    renamed = {"proof": _field(browser.get("/", x_forwarded_proto="https").text, "proof"), "language": "en"}
    spoken = browser.post("/language", renamed, x_forwarded_proto="https", origin=f"https://{HERE}")
    assert "samesite=lax" in (spoken.header("set-cookie") or "").lower()
    assert "secure" in (spoken.header("set-cookie") or "").lower()


def test_nobody_else_says_what_is_forwarded(replica: Client) -> None:
    given = Browser(replica).log_in(token(ADA.id), x_forwarded_proto="https").header("set-cookie") or ""
    assert given.startswith("popfax=")


def test_the_chosen_language_survives_a_link_from_elsewhere(client: Client) -> None:
    browser = Browser(client)
    given = browser.post("/language", {"language": "en"}).header("set-cookie") or ""
    assert "samesite=lax" in given.lower()
    assert 'lang="en"' in browser.get("/").text


# --- how often --------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    limits: dict[str, Any] = {
        "web_limit_address": "20/hour",
        "web_limit_person": "8/hour",
        "web_limit_commands": "3/hour",
        "sse_connections": 4,
        "sse_connections_person": 2,
        "trusted_proxies": "127.0.0.1",
    }
    if (left_s := 3600 - time.time() % 3600) < 10:
        time.sleep(left_s)  # an hour that begins meanwhile lets one more in
    with serving(url, tmp_path_factory.mktemp("keys"), **limits) as made:
        yield made


def test_a_person_is_limited_in_what_they_post(strict: Client) -> None:
    ada, bob = strict.as_(ADA.id), strict.as_(BOB.id)
    assert [ada.post("rename-group", {"name": f"Name {n}"}).status for n in range(3)] == [202] * 3
    refused = ada.post("rename-group", {"name": "One more"})
    assert refused.problem == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 2 * 3600
    assert bob.post("rename-group", {"name": "Name"}).status == 202
    assert ada.get("/v1/units").status == 200, "reading has a limit of its own"


def test_a_person_is_limited_in_what_they_read(strict: Client) -> None:
    ada = strict.as_(ADA.id)
    assert [ada.get("/v1/units").status for _ in range(8)] == [200] * 8
    assert ada.get("/v1/units").problem == (429, "too_many_requests")
    assert strict.as_(BOB.id).get("/v1/units").status == 200


def test_an_address_is_limited_before_anybody_is_known(strict: Client) -> None:
    assert [strict.with_("bad").get("/v1/units").status for _ in range(20)] == [401] * 20
    refused = strict.as_(ADA.id).get("/v1/units")
    assert refused.problem == (429, "too_many_requests")
    shown = Browser(strict).get("/")
    assert (shown.status, shown.header("content-type")) == (429, "text/html; charset=utf-8")
    assert int(shown.header("retry-after") or 0) >= 1
    assert "trop à la fois" in shown.text
    elsewhere = Browser(strict).get("/", x_forwarded_for="203.0.113.7")
    assert elsewhere.status == 401
    # To htmx it is a toast, which a rule of its own shows: the page around it stays.
    passing = Browser(strict).get("/", hx_request="true")
    assert passing.status == 429
    assert 1 <= int(passing.header("retry-after") or 0) <= int(shown.header("retry-after") or 0), "the time goes on"
    assert passing.text.startswith('<div class="toast bad" role="alert">')
    for answer in (shown, passing):
        assert re.search(r"Attendez \d+\W(seconde|minute)s?, puis réessayez", answer.text), answer.text


def test_the_page_is_limited_as_the_api_is(strict: Client) -> None:
    browser = Browser(strict)
    browser.log_in(token(ADA.id), x_forwarded_for="203.0.113.8")
    found = [browser.get("/", x_forwarded_for="203.0.113.8").status for _ in range(9)]
    assert found == [200] * 8 + [429]
    assert strict.as_(ADA.id).get("/v1/units").status == 429


def test_a_person_has_few_streams_and_leaves_room(strict: Client) -> None:
    ada = strict.as_(ADA.id)
    with ada.events() as first, ada.events():
        next(first)
        refused = ada.get("/v1/events")
        assert refused.problem == (429, "too_many_streams")
        assert "retry-after" in refused.headers
        with strict.as_(BOB.id).events() as theirs:
            next(theirs)
    wait(lambda: REGISTRY.get_sample_value("popfax_sse_streams") == 0, "all have hung up")
    with ada.events() as again:
        next(again)


def test_many_at_once_get_no_more_streams_than_there_are(
    url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sites: list[Web] = []
    limits: dict[str, Any] = {"sse_connections": 50, "sse_connections_person": 3}
    with serving(url, tmp_path_factory.mktemp("keys"), sites.append, **limits) as client:
        held: list[http.client.HTTPConnection] = []
        text = token(ADA.id)

        def listen() -> None:
            connection = http.client.HTTPConnection(client.host, client.port, timeout=WITHIN_S)
            held.append(connection)
            connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {text}"})
            connection.getresponse()

        threads = [threading.Thread(target=listen) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(sites[0]._context.feed) == 3
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("no address", "no address"),
        ("x" * 1000, "x" * 64),
        ("", ""),
    ],
)
def test_an_address_stands_for_itself(host: str, counted: str) -> None:
    assert network_of(host) == counted


def test_a_network_of_ipv6_is_one_visitor() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9%eth0") != network_of("2001:db8:1:3::1")


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_refused(client: Client, ada: Browser) -> None:
    long = "x" * (300 * 1024)
    assert client.as_(ADA.id).post("rename-group", {"name": long}).problem == (413, "too_large")
    assert ada.post("/name", {"proof": ada.proof(), "name": long}).status == 422


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/", "GET, HEAD"),
        ("/name", "GET, HEAD, POST"),
        ("/transfers", "POST"),
        (f"/commands/{ADA.id}", "GET, HEAD, POST"),
        ("/static/page.css", "GET, HEAD"),
    ],
)
def test_a_method_that_a_page_does_not_take_names_those_that_it_does(ada: Browser, path: str, allow: str) -> None:
    answer = ada.ask("DELETE", path)
    assert (answer.status, answer.header("allow")) == (405, allow)


def test_head_shows_that_a_page_is_there(ada: Browser) -> None:
    for path in ("/", "/parts", "/history", "/name", "/invite", "/events", "/static/page.css"):
        answer = ada.ask("HEAD", path)
        assert (answer.status, answer.text) == (200, ""), path
    assert Browser(ada.client).ask("HEAD", "/").status == 401


def test_who_hangs_up_in_a_body_is_no_error(ada: Browser, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection((ada.client.host, ada.client.port)) as raw:
        cookie = f"popfax={ada.cookies['popfax']}"
        raw.sendall(
            f"POST /name HTTP/1.1\r\nHost: {HERE}\r\nCookie: {cookie}\r\nContent-Length: 100\r\n\r\nna".encode()
        )
        time.sleep(0.3)
    time.sleep(0.3)
    assert ada.get("/").status == 200
    assert "Exception in ASGI application" not in caplog.text
