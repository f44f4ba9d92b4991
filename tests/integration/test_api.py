"""The query API over HTTP, on a real database: what is shown to whom, what is refused, and what it looks like."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.stack import Stack
from popfax_contracts.groups import InviteByEmail
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis import postgres
from services.groups.domain import (
    AccountState,
    HistoryEntry,
    Invitation,
    InvitationState,
    Kind,
    OrderKind,
    OrderState,
    Plan,
    StandingOrder,
    membership_of,
    order_of,
)
from services.groups.web import metrics
from services.groups.web.app import Web
from tests.e2e.driver import wait
from tests.integration.recorder import eventually, execute, plain, scratch_database
from tests.integration.seeding import group, member, person, seed
from tests.integration.serving import Answer, Client, serving
from tests.tokens import token
from tests.unit.given import NOW, id_of

ADA = person("Ada", 777_001, state=AccountState.EXPIRED, expires_at=datetime(2029, 7, 17, tzinfo=UTC))
BOB = person("Bob", 20_002)
EVE = person("Eve", 5)
ZOE = person("Zoe", 6)
GROUP = group_of(ADA.id)
SOON = datetime.now(UTC) + timedelta(days=3)
TO_EVE = Invitation(
    id_of("to Eve"), GROUP, ADA.id, EVE.id, InvitationState.PENDING, 1, b"\x01" * 32, NOW, SOON, None, EVE.email
)


KEPT = membership_of(GROUP, BOB.id)
ORDER = StandingOrder(
    *(order_of(KEPT), GROUP, ADA.id, BOB.id, OrderState.ACTIVE, 1, OrderKind.KEEP_AT, 47_110, 47_111, 47_112, None),
    *(NOW, None, None, NOW.date(), 0, NOW.date(), None, None, 1, 0),
)


def line(number: int, kind: Kind, member_id: UUID | None = BOB.id, **changed: Any) -> HistoryEntry:
    """A line of the history: the higher the number the newer."""
    at = NOW + timedelta(seconds=number)
    reference = id_of(f"what line {number} is about")
    return replace(
        HistoryEntry(id_of(f"line {number}"), GROUP, kind, at, ADA.id, member_id, reference, 3, "done", None, NOW),
        **changed,
    )


ROWS = [
    ADA,
    BOB,
    EVE,
    ZOE,
    group(ADA, "Ada's friends"),
    group(BOB),
    member(ADA, BOB, epoch=2),
    ORDER,
    member(ADA, ZOE, active=False, ended_at=NOW, shown_name="Zoe Of-Zoe", shown_email="zoe@example.com"),
    member(ADA, EVE, active=False, epoch=0, invitation_id=TO_EVE.id, joined_at=None),
    TO_EVE,
    Plan("send_only", 15, 12),
    Plan("send_receive", 45, 12),
    line(1, Kind.INVITATION, EVE.id, outcome="pending", reference_id=TO_EVE.id),
    line(2, Kind.MEMBERSHIP, ZOE.id, actor_id=ZOE.id),
    line(3, Kind.TRANSFER),
    line(4, Kind.ACCOUNT, None, outcome="refused", code="units_short"),
    line(5, Kind.NAME, None),
    line(6, Kind.TRANSFER, actor_id=None),
]


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with scratch_database(stack, Principal.GROUPS) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    made = postgres.engine(url)
    await seed(made, ROWS)
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
def nobody(url: str, engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    plenty: dict[str, Any] = {"web_limit_person": "3000/minute", "web_limit_commands": "1000/minute"}
    with serving(url, tmp_path_factory.mktemp("keys"), **plenty) as client:
        yield client


@pytest.fixture
def ada(nobody: Client) -> Client:
    return nobody.as_(ADA.id)


@pytest.fixture
def bob(nobody: Client) -> Client:
    return nobody.as_(BOB.id)


def _counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_requests_are_measured_by_method_route_and_status_and_no_id_is_kept(nobody: Client, ada: Client) -> None:
    def requests(method: str, route: str, status: int) -> float:
        labels = {"http_request_method": method, "http_route": route, "http_response_status_code": str(status)}
        return _counted("http_server_request_duration_seconds_count", **labels)

    asked: list[tuple[Callable[[], Answer], tuple[str, str, int]]] = [
        (lambda: ada.get("/v1/group"), ("GET", "/v1/group", 200)),
        (lambda: ada.get(f"/v1/groups/{id_of('none')}"), ("GET", "/v1/groups/{group_id}", 404)),
        (lambda: nobody.get("/v1/group"), ("GET", "", 401)),  # refused at the door, before any route
        (lambda: ada.get("/v1/none"), ("GET", "", 404)),
        (lambda: nobody.get("/static/none.css"), ("GET", "/static/{path}", 404)),
    ]
    waits = _counted("popfax_database_wait_seconds_count", pool="web")
    for ask, measured in asked:
        before = requests(*measured)
        assert ask().status == measured[2]
        wait(lambda: requests(*measured) == before + 1, f"{measured} is counted")  # noqa: B023  (called at once)
    assert _counted("popfax_database_wait_seconds_count", pool="web") > waits
    wait(lambda: _counted("popfax_database_connections", pool="web", state="idle") >= 1, "a connection is returned")
    routes = {s.labels["http_route"] for family in metrics.REQUESTS.collect() for s in family.samples}
    assert {"/", "/commands/{id:uuid}", "/v1/commands/rename-group", "/v1/openapi.json"} <= routes


def test_failures_of_a_route_have_their_series_before_the_first(nobody: Client) -> None:
    found = {
        (s.labels["http_route"], s.labels["http_response_status_code"])
        for family in metrics.REQUESTS.collect()
        for s in family.samples
    }
    assert {("/v1/units", status) for status in ("200", "500", "503")} <= found
    assert ("/v1/commands/rename-group", "202") in found


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_owner_sees_group_members_and_invitations(ada: Client) -> None:
    shown = ada.get("/v1/group").json
    assert shown == {
        "group_id": str(GROUP),
        "name": "Ada's friends",
        "renamed": True,
        "closed": False,
        "account": {"state": "expired", "expires_at": "2029-07-17T00:00:00Z", "available_units": 777_001},
        "low_balance": {"below_units": None, "mail": False},
        "members_total": 1,
        "members": [
            {
                "member_id": str(BOB.id),
                "first_name": "Bob",
                "last_name": "Of-Bob",
                "email": "bob@example.com",
                "state": "active",
                "expires_at": "2031-01-01T00:00:00Z",
                "available_units": 20_002,
                "epoch": 2,
                "joined_at": "2031-01-01T00:00:00Z",
            }
        ],
        "invitations": [
            {
                "invitation_id": str(TO_EVE.id),
                "email": "eve@example.com",
                "made_at": "2031-01-01T00:00:00Z",
                "expires_at": SOON.isoformat().replace("+00:00", "Z"),
            }
        ],
    }
    assert ada.get("/v1/group/members").json == {"items": shown["members"], "total": 1, "next": None}
    assert ada.get("/v1/group/invitations").json == {"items": shown["invitations"]}
    assert ada.get(f"/v1/groups/{GROUP}").json == shown
    assert ada.get("/v1/units").json == shown["account"]


def test_member_sees_the_names_of_group_and_owner_alone(bob: Client) -> None:
    assert bob.get("/v1/memberships").json == {
        "items": [
            {
                "group_id": str(GROUP),
                "group_name": "Ada's friends",
                "owner_name": "Ada Of-Ada",
                "epoch": 2,
                "joined_at": "2031-01-01T00:00:00Z",
            }
        ]
    }


def test_invited_sees_who_invites(nobody: Client) -> None:
    (shown,) = nobody.as_(EVE.id).get("/v1/invitations").json["items"]
    assert (shown["invitation_id"], shown["group_name"], shown["owner_name"]) == (
        str(TO_EVE.id),
        "Ada's friends",
        "Ada Of-Ada",
    )


def test_former_member_sees_nothing_any_more(nobody: Client) -> None:
    assert nobody.as_(ZOE.id).get("/v1/memberships").json == {"items": []}


def test_somebody_of_whom_nothing_is_known_has_an_empty_group(nobody: Client) -> None:
    stranger = nobody.as_(uuid4())
    shown = stranger.get("/v1/group").json
    assert (shown["name"], shown["members"], shown["invitations"]) == ("", [], [])
    assert shown["account"] == {"state": "active", "expires_at": None, "available_units": 0}
    assert stranger.get("/v1/history").json == {"lines": [], "next": None}


def test_plans_have_their_prices(bob: Client) -> None:
    assert [(p["plan"], p["price_units"]) for p in bob.get("/v1/plans").json["items"]] == [
        ("send_receive", 45),
        ("send_only", 15),
    ]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [("all", [6, 5, 4, 3, 2, 1]), ("transfers", [6, 3]), ("invitations", [4, 1])],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 200])
def test_history_comes_in_pages_newest_first(ada: Client, wanted: str, numbers: list[int], limit: int) -> None:
    found: list[str] = []
    cursor = ""
    while True:
        page = ada.get(f"/v1/history?filter={wanted}&limit={limit}{cursor}").json
        assert len(page["lines"]) <= limit
        found += [each["id"] for each in page["lines"]]
        if page["next"] is None:
            break
        assert len(page["lines"]) == limit
        cursor = f"&cursor={page['next']}"
    assert found == [str(id_of(f"line {number}")) for number in numbers]


def test_history_says_who_and_names_nobody_who_was_never_a_member(ada: Client) -> None:
    lines = {each["id"]: each for each in ada.get("/v1/history").json["lines"]}
    shown = {
        number: tuple(lines[str(id_of(f"line {number}"))][name] for name in ("by", "member_name", "member_email"))
        for number in (1, 2, 3, 4, 6)
    }
    assert shown == {
        1: ("owner", None, "eve@example.com"),
        2: ("member", "Zoe Of-Zoe", "zoe@example.com"),
        3: ("owner", "Bob Of-Bob", "bob@example.com"),
        4: ("owner", None, None),
        6: ("popfax", "Bob Of-Bob", "bob@example.com"),
    }


@pytest.mark.parametrize("path", ["", "/history"])
def test_somebody_elses_group_is_not_there(bob: Client, path: str) -> None:
    theirs, none = bob.get(f"/v1/groups/{GROUP}{path}"), bob.get(f"/v1/groups/{uuid4()}{path}")
    assert theirs.problem == none.problem == (404, "not_found")
    assert theirs.text == none.text


def test_the_owner_sees_standing_orders(ada: Client) -> None:
    page = ada.get("/v1/group/orders").json
    (order,) = page["items"]
    assert (order["member_id"], order["state"], order["kind"]) == (str(BOB.id), "active", "keep_at")
    assert (order["threshold_units"], order["amount_units"], page["next"]) == (47_110, None, None)


def test_no_route_shows_a_member_anything_of_the_owners_account(nobody: Client, ada: Client) -> None:
    """Every route that the document has is asked by a member, a former one, and one who is invited."""
    secrets = [
        str(ADA.available_units),
        ADA.email or "",
        "expired",
        "2029-07-17",
        str(ADA.id),
        str(ORDER.threshold_units),
    ]
    routes = [path for path, methods in nobody.get("/v1/openapi.json").json["paths"].items() if "get" in methods]
    assert len(routes) == 14
    ours = "".join(ada.get(f"/v1{_filled(path)}").text for path in routes if path != "/events")
    told = [secret for secret in secrets if secret in ours]
    assert told == [str(ADA.available_units), "expired", "2029-07-17", str(ORDER.threshold_units)], (
        "what a member must not see, the owner does"
    )
    for caller in (BOB, ZOE, EVE):
        for path in routes:
            if path == "/events":
                with nobody.as_(caller.id).events() as events:
                    body = str(next(events))
            else:
                body = nobody.as_(caller.id).get(f"/v1{_filled(path)}").text
            assert [secret for secret in secrets if secret in body] == [], path


def _filled(path: str) -> str:
    found = path.replace("{group_id}", str(GROUP)).replace("{member_id}", str(BOB.id))
    return found.replace("{id}", str(uuid4()))


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_nobody_is_let_in_without_a_token(nobody: Client) -> None:
    for path, methods in nobody.get("/v1/openapi.json").json["paths"].items():
        for method in methods:
            refused = nobody.ask(method.upper(), f"/v1{_filled(path)}")
            assert refused.problem == (401, "token_missing"), path
            assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("bearer", "code"),
    [
        (lambda: token(ADA.id, exp=1), "token_expired"),
        (lambda: token(ADA.id, aud="other"), "wrong_audience"),
        (lambda: token(ADA.id, "ec-mallory", kid="ec"), "wrong_signature"),
        (lambda: "eyJhbGciOiJub25lIn0.e30.", "algorithm_not_allowed"),
        (lambda: "nonsense", "malformed_token"),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(nobody: Client, bearer: Callable[[], str], code: str) -> None:
    refused = nobody.with_(bearer()).get("/v1/group")
    assert refused.problem == (401, code)
    assert refused.headers["www-authenticate"] == f'Bearer error="invalid_token", error_description="{code}"'


def test_a_token_is_asked_for_before_anything_is_read(nobody: Client) -> None:
    assert nobody.ask("POST", "/v1/commands/rename-group", b"{").problem == (401, "token_missing")
    assert nobody.get("/v1/nowhere").problem == (401, "token_missing")


def test_without_keys_it_is_another_time(url: str, tmp_path: Path) -> None:
    with serving(url, tmp_path, jwt_jwks=str(tmp_path / "none.json")) as client:
        answer = client.as_(ADA.id).get("/v1/group")
        assert answer.problem == (503, "keys_unavailable")
        assert "retry-after" in answer.headers


# --- problems ---------------------------------------------------------------------------------------------------------


RENAME, INVITE, DETACH = (f"/v1/commands/{name}" for name in ("rename-group", "invite-by-email", "detach-members"))


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/nowhere", None, (404, "not_found", None)),
        ("DELETE", "/v1/group", None, (405, "method_not_allowed", None)),
        *((method, "/v1/commands/no-such-command", {}, (404, "not_found", None)) for method in ("GET", "POST", "PUT")),
        ("GET", "/v1/groups/7", None, (404, "not_found", None)),
        ("GET", "/v1/history?limit=0", None, (422, "malformed", ["query.limit: too_small"])),
        ("GET", "/v1/history?limit=x", None, (422, "malformed", ["query.limit: not_a_whole_number"])),
        ("GET", "/v1/history?filter=none", None, (422, "malformed", ["query.filter: not_a_choice"])),
        ("GET", "/v1/history?cursor=none", None, (422, "malformed", ["query.cursor: not_a_cursor"])),
        ("POST", RENAME, b"{", (422, "malformed", ["body: not_json"])),
        ("POST", RENAME, b"\xff\xfe", (422, "malformed", ["body: not_json"])),
        ("POST", RENAME, b'{"name": "\x80"}', (422, "malformed", ["body: not_json"])),
        ("POST", RENAME, b"", (422, "malformed", ["body: required"])),
        ("POST", RENAME, [], (422, "malformed", ["body: not_an_object"])),
        ("POST", RENAME, {}, (422, "malformed", ["body.name: required"])),
        ("POST", RENAME, {"name": "a\nb"}, (422, "malformed", ["body.name: hidden_character"])),
        ("POST", RENAME, {"name": "a", "x": 1}, (422, "malformed", ["body.x: unknown"])),
        ("POST", INVITE, {"email": "secret@@x"}, (422, "malformed", ["body.email: invalid"])),
        ("POST", DETACH, {"members": [{"member_id": str(BOB.id)}] * 2}, (422, "malformed", ["body: invalid"])),
    ],
)
def test_an_error_is_a_problem(ada: Client, method: str, path: str, body: Any, expected: Any) -> None:
    answer = ada.ask(method, path, body)
    assert (*answer.problem, answer.json.get("errors")) == expected
    assert "secret" not in answer.text


def _routes(client: Client) -> list[tuple[str, str]]:
    """Every method and path of the document."""
    paths = client.get("/v1/openapi.json").json["paths"]
    return [(method.upper(), f"/v1{_filled(path)}") for path, methods in paths.items() for method in methods]


def test_a_query_that_no_route_knows_is_refused_by_all(ada: Client) -> None:
    for method, path in [*_routes(ada), ("GET", "/v1/openapi.json")]:
        answer = ada.ask(method, f"{path}?colour=red&limti=1", {} if method == "POST" else None)
        assert answer.problem == (422, "malformed"), path
        assert answer.json["errors"] == ["query.colour: unknown", "query.limti: unknown"], path


def test_a_body_that_is_not_said_to_be_json_is_refused(ada: Client) -> None:
    posts = [path for method, path in _routes(ada) if method == "POST"]
    assert len(posts) > 5
    for path in posts:
        for type_ in ("", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
            answer = ada.ask("POST", path, b'{"name": "Ours"}', **{"Content-Type": type_})
            assert (*answer.problem, answer.json.get("errors")) == (415, "unsupported_media_type", None), (path, type_)
    assert (
        ada.ask("POST", RENAME, {"name": "Ours"}, **{"Content-Type": "application/json; charset=utf-8"}).status == 202
    )


def test_a_method_that_an_address_does_not_take_names_those_that_it_does(ada: Client) -> None:
    for method, path in _routes(ada):
        answer = ada.ask("PATCH", path)
        assert answer.problem == (405, "method_not_allowed"), path
        assert answer.headers["allow"] == ("GET, HEAD" if method == "GET" else "POST"), path


def test_head_is_answered_wherever_get_is(ada: Client) -> None:
    for method, path in [*_routes(ada), ("GET", "/v1/openapi.json")]:
        if method == "GET" and not path.endswith("/events"):
            whole, head = ada.ask("GET", path), ada.ask("HEAD", path)
            assert (head.status, head.text) == (whole.status, ""), path
            assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}, path
    assert ada.ask("HEAD", "/v1/events").headers["content-type"].startswith("text/event-stream")


def test_what_somebody_has_already_is_not_sent_again(ada: Client, bob: Client) -> None:
    for method, path in _routes(ada):
        if method == "POST" or "/events" in path or "/commands/" in path:
            continue
        read = ada.ask("GET", path)
        tag = read.headers["etag"]
        assert (tag[:3], read.headers["cache-control"], read.headers["vary"]) == (
            'W/"',
            "private, no-cache",
            "Authorization",
        )
        for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
            again = ada.ask("GET", path, **{"If-None-Match": known})
            assert (again.status, again.text, again.headers["etag"]) == (304, "", tag), (path, known)
        assert ada.ask("GET", path, **{"If-None-Match": '"other"'}).text == read.text
    tag = ada.get("/v1/units").headers["etag"]
    assert bob.ask("GET", "/v1/units", **{"If-None-Match": tag}).status == 200, "each has what is theirs"
    refused = ada.ask("GET", "/v1/nowhere", **{"If-None-Match": "*"})
    assert (refused.status, refused.headers["cache-control"]) == (404, "no-store")


def test_a_body_may_not_be_too_large(ada: Client) -> None:
    assert ada.post("rename-group", {"name": "x" * 300_000}).problem == (413, "too_large")


def test_a_database_that_is_away_is_another_time(stack: Stack, tmp_path: Path) -> None:
    gone = stack.postgres.superuser_url.rsplit("/", 1)[0] + "/not_there"
    with serving(gone, tmp_path) as client:
        answer = client.as_(ADA.id).get("/v1/group")
        assert answer.problem == (503, "database_away")
        assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("path", "table", "code"), [("/v1/group", "groups", "stopping"), ("/", "sessions", "")], ids=["API", "page"]
)
def test_a_request_that_is_cut_short_as_the_process_stops_is_for_another_time(
    url: str, tmp_path: Path, path: str, table: str, code: str
) -> None:
    answers: list[Answer] = []
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(plain(url)) as locks:
        locks.execute(f"LOCK TABLE {table}")
        with serving(url, tmp_path) as client:
            asks = partial(client.as_(ADA.id).ask, "GET", path, Cookie="popfax=secret")
            thread = threading.Thread(target=lambda: answers.append(asks()))
            thread.start()
            wait(lambda: execute(url, waiting)[0][0] == 1, "the request waits for the lock")
    thread.join()
    (answer,) = answers
    assert answer.status == 503
    assert not code or answer.problem == (503, code)


WRONG: dict[str, tuple[str, str]] = {
    "a missing table": ("ALTER TABLE groups RENAME TO gone", "ALTER TABLE gone RENAME TO groups"),
    "a missing column": ("ALTER TABLE groups RENAME name TO gone", "ALTER TABLE groups RENAME gone TO name"),
}


@pytest.mark.parametrize(("breaks", "mends"), WRONG.values(), ids=WRONG)
def test_a_request_that_meets(url: str, ada: Client, breaks: str, mends: str) -> None:
    execute(url, breaks)
    try:
        assert ada.get("/v1/group").problem == (503, "database_away")
    finally:
        execute(url, mends)
    assert ada.get("/v1/group").status == 200


def test_a_command_can_be_posted_again_once_the_database_takes_it(url: str, ada: Client) -> None:
    execute(url, "ALTER TABLE commands RENAME TO gone")
    try:
        assert ada.post("rename-group", {"name": "New"}, "again").problem == (503, "database_away")
    finally:
        execute(url, "ALTER TABLE gone RENAME TO commands")
    assert ada.post("rename-group", {"name": "New"}, "again").status == 202


# --- commands ---------------------------------------------------------------------------------------------------------


def test_a_posted_command_is_in_the_outbox_as_the_platform_would_send_it(url: str, ada: Client) -> None:
    answer = ada.post("invite-by-email", {"email": "New@Example.com"})
    assert answer.status == 202
    id_ = answer.json["id"]
    assert (answer.json["type"], answer.json["state"]) == ("invite-by-email", "pending")
    assert answer.headers["location"] == f"/v1/commands/{id_}"
    ((type_, key, value, correlation, actor),) = execute(
        url, "SELECT type, key, value, correlation_id, actor FROM outbox WHERE id = %s", UUID(id_)
    )
    assert (type_, key, correlation, actor) == (InviteByEmail.TYPE, str(GROUP), id_, ADA.id)
    assert InviteByEmail.from_json(bytes(value)) == InviteByEmail(group_id=GROUP, email="new@example.com")
    assert ada.get(answer.headers["location"]).json == answer.json


def test_what_became_of_a_command_is_for_whoever_posted_it(ada: Client, bob: Client) -> None:
    location = ada.post("rename-group", {"name": "Ours"}).headers["location"]
    assert ada.get(location).status == 200
    assert bob.get(location).problem == (404, "not_found")


@pytest.mark.parametrize("key", [str(uuid4()), "order 7", None], ids=["a UUID", "a text", "none"])
def test_a_key_asks_once(url: str, ada: Client, bob: Client, key: str | None) -> None:
    if key == "order 7":
        key = "order-7"
    first = ada.post("rename-group", {"name": "Ours"}, key)
    again = ada.post("rename-group", {"name": " Ours "}, key)
    assert (first.status, again.status) == (202, 202)
    if key is None:
        assert again.json["id"] != first.json["id"]
        return
    assert again.json == first.json
    assert first.json["id"] != key, "a key is never an id itself"
    assert execute(url, "SELECT count(*) FROM outbox WHERE id = %s", UUID(first.json["id"])) == [(1,)]
    assert ada.post("rename-group", {"name": "Theirs"}, key).problem == (409, "id_conflict")
    assert ada.post("invite-by-email", {"email": "x@example.com"}, key).problem == (409, "id_conflict")
    others = bob.post("rename-group", {"name": "Ours"}, key)
    assert others.status == 202
    assert others.json["id"] != first.json["id"], "a key is its actor's own"


@pytest.mark.parametrize(
    ("state", "code", "result"),
    [("done", None, {"event": "group-renamed"}), ("refused", "group_closed", None)],
)
def test_a_repeated_command_that_has_ended_says_how(
    url: str, ada: Client, state: str, code: str | None, result: Any
) -> None:
    key = f"how-it-ended-{state}"
    first = ada.post("rename-group", {"name": "Ours"}, key)
    ended = "UPDATE commands SET state = %s, code = %s, result = %s, ended_at = now() WHERE id = %s"
    execute(url, ended, state, code, json.dumps(result) if result else None, UUID(first.json["id"]))
    again = ada.post("rename-group", {"name": "Ours"}, key)
    assert (again.status, again.headers["location"]) == (200, first.headers["location"])
    assert (again.json["state"], again.json["code"], again.json["result"]) == (state, code, result)
    assert again.json == ada.get(again.headers["location"]).json
    assert ada.post("rename-group", {"name": "Theirs"}, key).problem == (409, "id_conflict")


def test_a_key_that_is_none_is_refused(ada: Client) -> None:
    answer = ada.post("rename-group", {"name": "Ours"}, "a key with spaces")
    assert (*answer.problem, answer.json["errors"]) == (
        422,
        "malformed",
        ["header.Idempotency-Key: wrong_form"],
    )


async def test_a_key_asks_once_when_it_comes_at_the_same_moment(url: str, ada: Client) -> None:
    key = str(uuid4())
    answers = await asyncio.gather(
        *(asyncio.to_thread(ada.post, "rename-group", {"name": "Ours"}, key) for _ in range(8))
    )
    assert {answer.status for answer in answers} == {202}
    (command_id,) = {UUID(answer.json["id"]) for answer in answers}
    assert execute(url, "SELECT count(*) FROM outbox WHERE id = %s", command_id) == [(1,)]


# --- what changes -----------------------------------------------------------------------------------------------------


def test_a_change_is_told_to_whom_it_shows(url: str, ada: Client, bob: Client, nobody: Client) -> None:
    with ada.events() as ours, bob.events() as theirs, nobody.as_(ZOE.id).events() as others:
        assert [next(events)["event"] for events in (ours, theirs, others)] == ["connected"] * 3
        execute(url, "UPDATE subscribers SET available_units = 7, balance_version = 2 WHERE id = %s", BOB.id)
        first = next(ours)
        assert (first["event"], first["data"], next(theirs)["event"]) == ("changed", "changed", "changed")
        execute(url, "UPDATE groups SET name = 'Friends' WHERE id = %s", GROUP)
        assert next(ours)["id"] != first["id"]
        assert next(theirs)["event"] == "changed"
        execute(url, "UPDATE subscribers SET available_units = 8 WHERE id = %s", ZOE.id)
        assert next(others)["event"] == "changed"
    execute(url, "UPDATE groups SET name = 'Ada''s friends' WHERE id = %s", GROUP)
    execute(url, "UPDATE subscribers SET available_units = 20002 WHERE id = %s", BOB.id)
    execute(url, "UPDATE subscribers SET available_units = 6 WHERE id = %s", ZOE.id)


def test_whoever_comes_back_is_told_what_they_missed_and_nothing_else(url: str, bob: Client) -> None:
    with bob.events() as events:
        seen = next(events)["id"]
    execute(url, "UPDATE subscribers SET available_units = 9 WHERE id = %s", BOB.id)
    with bob.events(seen) as events:
        assert next(events)["event"] == "changed"
    execute(url, "UPDATE subscribers SET available_units = 20002 WHERE id = %s", BOB.id)
    with bob.events(seen) as events, bob.events() as newcomer:
        assert next(newcomer) == {"id": seen, "event": "connected", "data": "connected"}
        execute(url, "UPDATE subscribers SET available_units = 10 WHERE id = %s", BOB.id)
        assert next(events)["id"] != seen, "the first event is the change, for nothing had changed before"
    execute(url, "UPDATE subscribers SET available_units = 20002 WHERE id = %s", BOB.id)


def test_a_stream_ends_with_its_token(nobody: Client) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=5)
    with nobody.as_(BOB.id, exp=soon).events() as events:
        began = time.monotonic()
        assert [event["event"] for event in events] == ["connected"]
        assert time.monotonic() - began < 15


async def test_connections_are_bounded_and_nobody_looks_for_nobody(url: str, tmp_path: Path) -> None:
    sites: list[Web] = []
    with serving(url, tmp_path, sites.append, sse_connections=2) as client:
        feed = sites[0]._context.feed
        bob = client.as_(BOB.id)
        with bob.events() as one, bob.events() as two:
            assert next(one)["event"] == next(two)["event"] == "connected"
            refused = _counted("popfax_sse_refused_total", limit="process")
            assert bob.get("/v1/events").problem == (503, "too_many_connections")
            assert _counted("popfax_sse_streams") == 2
            assert _counted("popfax_sse_refused_total", limit="process") == refused + 1
            assert feed._looking is not None
        await eventually(lambda: len(feed) == 0 and feed._looking is None, "all have hung up")
        with bob.events() as again:
            assert next(again)["event"] == "connected"


def test_open_streams_do_not_hold_up_the_end(url: str, tmp_path: Path) -> None:
    reading = threading.Event()

    def read(client: Client) -> None:
        with client.as_(BOB.id).events() as events:
            next(events)
            reading.set()
            for _ in events:
                pass

    with serving(url, tmp_path) as client:
        reader = threading.Thread(target=read, args=(client,))
        reader.start()
        assert reading.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    reader.join(5)
    assert not reader.is_alive()
