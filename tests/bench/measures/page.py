"""The group page, served by a process of its own: of a group with 1,000 members and 10,000 lines of history, and of one
with 10,000 members and 1,000,000 lines, in whose members is searched, too.

The time is from the moment at which a request is due to the last byte of its answer, over the loopback interface.
"""

import asyncio
import http.client
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import psycopg

from deploy.local.product import Product
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from tests.bench.running import Bench
from tests.bench.statistic import percentile
from tests.tokens import cookie_of

T = TypeVar("T")

WARM_UP = 10
PER_S = 10

OWN_PAGE = "/"
SEARCHES = ("etienne", "roux 77", "zidane 1")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a group is."""

    name: str
    members: int
    lines: int


USUAL = Size("usual", 1000, 10_000)
LARGE = Size("large", 10_000, 1_000_000)

_PEOPLE = """
INSERT INTO subscribers (id, email, first_name, last_name, language, state, available_units, balance_version)
SELECT gen_random_uuid(), 'member' || n || '@' || %(name)s || '.example',
       (ARRAY['Camille', 'Étienne', 'Zoé'])[1 + n %% 3],
       (ARRAY['Roux ', 'de La Tour ', 'Zidane '])[1 + n %% 7 %% 3] || n, 'fr',
       CASE WHEN n %% 10 = 0 THEN 'expired' ELSE 'active' END, n * 7 %% 5000, 1
FROM generate_series(1, %(members)s) n
"""
_OWNER = """
INSERT INTO subscribers (id, email, first_name, last_name, language, state, available_units, balance_version)
VALUES (%(owner_id)s, 'owner@' || %(name)s || '.example', 'Anne', 'Martin', 'fr', 'active', 100000, 1)
"""
_MEMBERSHIPS = """
INSERT INTO memberships (id, group_id, owner_id, member_id, active, epoch, joined_at)
SELECT gen_random_uuid(), %(group_id)s, %(owner_id)s, id, true, 1, now()
FROM subscribers WHERE email LIKE 'member%%@' || %(name)s || '.example'
"""
_HISTORY = """
INSERT INTO history (id, group_id, kind, at, actor_id, member_id, reference_id, units, outcome)
SELECT gen_random_uuid(), %(group_id)s, 'transfer', now() - n * interval '1 minute', %(owner_id)s,
       (array(SELECT member_id FROM memberships WHERE group_id = %(group_id)s))[1 + n %% %(members)s],
       gen_random_uuid(), n %% 50 + 1, 'done'
FROM generate_series(1, %(lines)s) n
"""


_SETTLE = "VACUUM (ANALYZE) subscribers, memberships, history"


@dataclass(frozen=True, slots=True)
class Visitor:
    """The owner of such a group."""

    host: str
    headers: dict[str, str]

    def ask(self, seconds: float, *paths: str) -> "Answers":
        """Ask for these paths in turn, so many times per second."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        taken, size = [], 0
        began = time.perf_counter()
        for number in range(round(seconds * PER_S)):
            due = began + number / PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("GET", paths[number % len(paths)], headers=self.headers)
            answer = connection.getresponse()
            size = max(size, len(answer.read()))
            taken.append(time.perf_counter() - due)
            assert answer.status == 200, answer.status
        connection.close()
        return Answers(taken, size)

    @property
    def searching(self) -> "Visitor":
        """Return the same owner, to whom htmx has the list of members exchanged."""
        return replace(self, headers={**self.headers, "HX-Request": "true"})


@dataclass(frozen=True, slots=True)
class Answers:
    """How long answers have taken, in seconds, and the bytes of the largest."""

    taken: list[float]
    size: int

    @property
    def times(self) -> dict[str, int]:
        """Return what is told of them, in milliseconds."""
        return {
            "p50_ms": round(percentile(self.taken, 50) * 1e3),
            "p95_ms": round(percentile(self.taken, 95) * 1e3),
            "max_ms": round(max(self.taken) * 1e3),
        }


def visitor(product: Product, url: str, size: Size) -> Visitor:
    """Put such a group into groups' database; return its owner, logged in at `url`."""
    owner_id = uuid4()
    facts = {"owner_id": owner_id, "group_id": group_of(owner_id), **asdict(size)}
    database = product.stack.postgres.url(Principal.GROUPS).replace("+psycopg", "", 1)
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (_PEOPLE, _OWNER, _MEMBERSHIPS, _HISTORY):
            connection.execute(statement.encode(), facts)
        connection.execute(_SETTLE)
    return Visitor(urlsplit(url).netloc, {"Cookie": cookie_of(product.stack.keys.login_link(url, owner_id))})


async def page(bench: Bench) -> dict[str, Any]:
    """Ask for the page while nothing else happens, and while sagas run."""
    sizes = bench.sizes
    with bench.beside(Principal.GROUPS, "web", role="web") as web:
        owner = visitor(bench.product, web.url, USUAL)
        await asyncio.to_thread(owner.ask, WARM_UP / PER_S, OWN_PAGE)
        quiet = await asyncio.to_thread(owner.ask, sizes.page_s / 2, OWN_PAGE)
        (busy,) = await _beside(bench, sizes.page_rate, lambda: (owner.ask(sizes.page_s, OWN_PAGE),))
    return {"page": {"alone": quiet.times, "beside_sagas": busy.times, "kb": quiet.size // 1000}}


async def large_page(bench: Bench) -> dict[str, Any]:
    """Ask for the page of a large group, and search in its members: alone, and while many commands go through."""
    sizes = bench.sizes
    searches = [f"/members?{urlencode({'search': each})}" for each in SEARCHES]
    with bench.beside(Principal.GROUPS, "web", role="web") as web:
        owner = await asyncio.to_thread(visitor, bench.product, web.url, LARGE)

        def look() -> tuple[Answers, Answers]:
            return owner.ask(sizes.page_s / 2, OWN_PAGE), owner.searching.ask(sizes.page_s / 2, *searches)

        await asyncio.to_thread(owner.ask, WARM_UP / PER_S, OWN_PAGE)
        quiet, found = await asyncio.to_thread(look)
        busy, found_busy = await _beside(bench, sizes.large_page_rate, look)
    return {
        "large_page": {
            "alone": quiet.times,
            "beside_commands": busy.times,
            "search_alone": found.times,
            "search_beside_commands": found_busy.times,
            "kb": quiet.size // 1000,
            "search_kb": found.size // 1000,
        }
    }


async def _beside(bench: Bench, per_s: int, look: Callable[[], T]) -> T:
    """Look while so many commands go through per second, each of them for an account that is created."""
    sagas = asyncio.create_task(bench.sagas(per_s * (bench.sizes.page_s + 2), per_s))
    await asyncio.sleep(3)  # they settle and begin
    looked = await asyncio.to_thread(look)
    await sagas
    return looked
