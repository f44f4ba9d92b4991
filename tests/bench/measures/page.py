"""The group page: a group with 1,000 members and 10,000 lines of history, served by a process of its own.

The time is from the moment at which a request is due to the last byte of its answer, over the loopback interface.
"""

import asyncio
import http.client
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from deploy.local.product import Product
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from tests.bench.running import Bench
from tests.bench.statistic import percentile
from tests.tokens import cookie_of

MEMBERS = 1000
LINES = 10_000
WARM_UP = 10
PER_S = 10

_PEOPLE = """
INSERT INTO subscribers (id, email, first_name, last_name, language, state, available_units, balance_version)
SELECT gen_random_uuid(), 'member' || n || '@page.example', 'Camille', 'Roux ' || n, 'fr',
       CASE WHEN n %% 10 = 0 THEN 'expired' ELSE 'active' END, n * 7 %% 5000, 1
FROM generate_series(1, %(members)s) n
"""
_OWNER = """
INSERT INTO subscribers (id, email, first_name, last_name, language, state, available_units, balance_version)
VALUES (%(owner_id)s, 'owner@page.example', 'Anne', 'Martin', 'fr', 'active', 100000, 1)
"""
_MEMBERSHIPS = """
INSERT INTO memberships (id, group_id, owner_id, member_id, active, epoch, joined_at)
SELECT gen_random_uuid(), %(group_id)s, %(owner_id)s, id, true, 1, now()
FROM subscribers WHERE email LIKE 'member%%@page.example'
"""
_HISTORY = """
INSERT INTO history (id, group_id, kind, at, actor_id, member_id, reference_id, units, outcome)
SELECT gen_random_uuid(), %(group_id)s, 'transfer', now() - n * interval '1 minute', %(owner_id)s,
       (array(SELECT member_id FROM memberships WHERE group_id = %(group_id)s))[1 + n %% %(members)s],
       gen_random_uuid(), n %% 50 + 1, 'done'
FROM generate_series(1, %(lines)s) n
"""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The owner of such a group."""

    host: str
    headers: dict[str, str]

    def ask(self, seconds: float) -> tuple[list[float], int]:
        """Ask for the page, so many times per second; return the times in seconds, and the answer's bytes."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        taken, size = [], 0
        began = time.perf_counter()
        for number in range(round(seconds * PER_S)):
            due = began + number / PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("GET", "/", headers=self.headers)
            answer = connection.getresponse()
            size = len(answer.read())
            taken.append(time.perf_counter() - due)
            assert answer.status == 200, answer.status
        connection.close()
        return taken, size


def visitor(product: Product, url: str) -> Visitor:
    """Put such a group into groups' database; return its owner, logged in at `url`."""
    owner_id = uuid4()
    facts = {"owner_id": owner_id, "group_id": group_of(owner_id), "members": MEMBERS, "lines": LINES}
    database = product.stack.postgres.url(Principal.GROUPS).replace("+psycopg", "", 1)
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (_PEOPLE, _OWNER, _MEMBERSHIPS, _HISTORY):
            connection.execute(statement.encode(), facts)
        connection.execute("ANALYZE subscribers, memberships, history")
    return Visitor(urlsplit(url).netloc, {"Cookie": cookie_of(product.stack.keys.login_link(url, owner_id))})


async def page(bench: Bench) -> dict[str, Any]:
    """Ask for the page while nothing else happens, and while sagas run."""
    sizes = bench.sizes
    with bench.beside(Principal.GROUPS, "web", role="web") as web:
        owner = visitor(bench.product, web.url)
        await asyncio.to_thread(owner.ask, WARM_UP / PER_S)
        quiet, size = await asyncio.to_thread(owner.ask, sizes.page_s / 2)
        sagas = asyncio.create_task(bench.sagas(sizes.page_rate * (sizes.page_s + 2), sizes.page_rate))
        await asyncio.sleep(3)  # they settle and begin
        busy, _ = await asyncio.to_thread(owner.ask, sizes.page_s)
        await sagas
    return {"page": {"alone": _times(quiet), "beside_sagas": _times(busy), "kb": size // 1000}}


def _times(seconds: list[float]) -> dict[str, int]:
    return {
        "p50_ms": round(percentile(seconds, 50) * 1e3),
        "p95_ms": round(percentile(seconds, 95) * 1e3),
        "max_ms": round(max(seconds) * 1e3),
    }
