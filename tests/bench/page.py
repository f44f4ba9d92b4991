"""Measures the group page: a group with 1,000 members and 10,000 lines of history, asked for again and again.

Alone: `python -m tests.bench.page`. The time is from the request to the last byte of the answer, over the loopback
interface, one after the other.
"""

import http.client
import json
import os
import shutil
import time
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from deploy.local.ports import Ports
from deploy.local.product import Product
from deploy.local.stack import Stack
from deploy.paths import STATE
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from tests.tokens import cookie_of

MEMBERS = 1000
LINES = 10_000
REQUESTS = 200
WARM_UP = 20

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


def measure(product: Product) -> dict[str, Any]:
    """Put such a group into groups' database, and ask for its page."""
    owner_id = uuid4()
    facts = {"owner_id": owner_id, "group_id": group_of(owner_id), "members": MEMBERS, "lines": LINES}
    url = product.stack.postgres.url(Principal.GROUPS).replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (_PEOPLE, _OWNER, _MEMBERSHIPS, _HISTORY):
            connection.execute(statement.encode(), facts)
        connection.execute("ANALYZE subscribers, memberships, history")
    address = product.services[Principal.GROUPS].url
    host = urlsplit(address).netloc
    headers = {"Cookie": cookie_of(product.stack.keys.login_link(address, owner_id))}
    seconds, size = _ask(host, headers)
    ordered = sorted(seconds)
    return {
        "page_p50_ms": round(ordered[len(ordered) // 2] * 1e3),
        "page_p95_ms": round(ordered[len(ordered) * 95 // 100] * 1e3),
        "page_max_ms": round(ordered[-1] * 1e3),
        "page_kb": size // 1000,
    }


def _ask(host: str, headers: dict[str, str]) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection(host, timeout=30)
    seconds, size = [], 0
    for _ in range(WARM_UP + REQUESTS):
        began = time.perf_counter()
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        size = len(answer.read())
        seconds.append(time.perf_counter() - began)
        assert answer.status == 200
    connection.close()
    return seconds[WARM_UP:], size


def main() -> None:
    """Measure the page alone."""
    directory = STATE / f"bench-{os.getpid()}"
    stack = Stack(directory, Ports.model_construct(), fresh=True)
    product = Product(stack)
    try:
        stack.start()
        product.prepare()
        product.services[Principal.GROUPS].launch()
        product.services[Principal.GROUPS].wait_ready()
        print(json.dumps(measure(product)))
    finally:
        product.stop_services()
        stack.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
