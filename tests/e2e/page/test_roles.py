"""Groups as two processes: one serves the page and API, the other does the work; either goes on without the other."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.product import Product, ServiceProcess
from popfax_contracts.groups import RenameGroup
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.chassis.metrics import Part
from services.chassis.open_work import kinds_of
from tests.e2e.driver import World, wait
from tests.e2e.page.conftest import Visiting
from tests.e2e.page.people import Person, rename, settle_in
from tests.exported import differences
from tests.integration.serving import Client
from tests.simulation.world import SERVICES

BATCH = 2000
PROMPT_S = 15.0
"""The longest that a page may take, on a machine that is busy with others. A frozen worker would take forever."""


@pytest.fixture(scope="module")
def web(product: Product) -> Iterator[ServiceProcess]:
    """The page and API in a process of their own; the product's groups works, and serves nothing."""
    worker = product.services[Principal.GROUPS]
    made, before = ServiceProcess(Principal.GROUPS, product.stack, name="groups-web"), worker.settings
    worker.stop()
    try:
        worker.launch(**{**before, "role": "worker", "batch_records": str(BATCH)})
        made.launch(role="web")
        worker.wait_ready()
        made.wait_ready()
        yield made
    finally:
        made.stop()
        worker.stop()
        worker.launch(**before)
        worker.wait_ready()


@pytest.fixture
def owner(stage: World) -> Person:
    made = Person("Anne", "Rouge")
    settle_in(stage, made)
    rename(stage, made, "Avant")
    return made


def asked(process: ServiceProcess, path: str, timeout_s: float = PROMPT_S) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{process.url}{path}", timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def caller(stage: World, web: ServiceProcess, who: Person) -> Client:
    return Client(urlsplit(web.url).hostname or "", urlsplit(web.url).port or 0, stage.stack.keys.token(who.id))


def test_each_process_says_of_itself_what_it_does(product: Product, web: ServiceProcess) -> None:
    worker = product.services[Principal.GROUPS]
    assert {name: json.loads(asked(each, "/ready")[1]) for name, each in {"web": web, "worker": worker}.items()} == {
        "web": {"database": True},
        "worker": {"database": True, "kafka": True, "work": True},
    }
    assert [asked(each, "/live")[0] for each in (web, worker)] == [200, 200]
    wait(lambda: "popfax_relay_leader 1.0" in asked(worker, "/metrics")[1], "the worker's relay leads")
    assert [asked(each, path)[0] for each in (worker, web) for path in ("/", "/v1/units")] == [404, 404, 401, 401]


def test_each_process_exports_the_metrics_of_its_parts_and_no_others(product: Product, web: ServiceProcess) -> None:
    works = Part.PROCESS, Part.WORK
    parts = {
        Principal.GROUPS: (*works, Part.SAGAS),
        Principal.LEDGER: works,
        Principal.PROVISIONING: (*works, Part.SAGAS),
        Principal.NOTIFICATIONS: (*works, Part.MAILS),
    }
    answers = {service: asked(process, "/metrics")[1] for service, process in product.services.items()}
    assert [wrong for service in parts for wrong in differences(answers[service], *parts[service])] == []
    assert differences(asked(web, "/metrics")[1], Part.PROCESS, Part.SITE) == []
    assert "process_cpu_seconds_total" in asked(web, "/metrics")[1]
    for service in SERVICES:
        assert _values(answers[service.principal], "popfax_open", "what") == {kind.what for kind in kinds_of(service)}
        topics = _values(answers[service.principal], "popfax_consumer_lag_messages", "topic")
        assert topics == {topic.name for topic in service.topics}


def _values(text: str, name: str, label: str) -> set[str]:
    families = text_string_to_metric_families(text)
    return {sample.labels[label] for family in families for sample in family.samples if sample.name == name}


def test_a_command_posted_to_the_web_is_done_by_the_worker_and_the_page_refreshes(
    visit: Visiting, web: ServiceProcess, owner: Person
) -> None:
    here, elsewhere = visit(owner, url=web.url), visit(owner, url=web.url)
    elsewhere.see("Avant")
    here.press("Modifier le nom du groupe", role="link")
    here.fill("Nom du groupe", "Après")
    here.press("Enregistrer")
    here.see("Après", "h1")
    elsewhere.see("Après", "h1")  # nobody has touched it


def test_without_the_worker_the_page_answers_and_keeps_what_is_posted(
    product: Product, visit: Visiting, web: ServiceProcess, owner: Person
) -> None:
    worker = product.services[Principal.GROUPS]
    worker.kill()
    try:
        assert web.ready()
        seen = visit(owner, url=web.url)
        seen.see("Avant", "h1")
        seen.press("Modifier le nom du groupe", role="link")
        seen.fill("Nom du groupe", "Plus tard")
        seen.press("Enregistrer")
        seen.see("Changement du nom…")
        late = seen.page.get_by_text("Cela prend plus de temps que d’habitude")
        expect(late).to_be_visible(timeout=30_000)  # it is said after ten seconds
        plain = visit(owner, url=web.url, scripts=False)
        plain.see("Avant", "h1")
    finally:
        worker.launch(**worker.settings)
    worker.wait_ready()
    seen.see("Plus tard", "h1")


def test_a_batch_at_hand_in_the_worker_holds_nobody_up(
    product: Product, stage: World, web: ServiceProcess, owner: Person
) -> None:
    other = Person("Bruno", "Vert")
    settle_in(stage, other)
    client = caller(stage, web, owner)
    renaming = [RenameGroup(group_id=group_of(other.id), name=f"Nom {n}") for n in range(BATCH)]
    with amid_a_batch(product, partial(publish, stage, renaming, other)):
        with pytest.raises(TimeoutError):
            asked(product.services[Principal.GROUPS], "/live", timeout_s=1)
        begun = time.monotonic()
        assert client.get("/v1/group").json["name"] == "Avant"
        posted = client.post("rename-group", {"name": "Pendant"})
        assert posted.status == 202
        assert client.get(posted.headers["location"]).json["state"] == "pending"
        assert time.monotonic() - begun < PROMPT_S
        with client.events() as events:
            assert next(events)["event"] == "connected"
    wait(lambda: client.get(posted.headers["location"]).json["state"] == "done", "the worker goes on")
    wait(lambda: name_of(stage, other) == f"Nom {BATCH - 1}", "the batch is done, in order")


def publish(stage: World, commands: list[RenameGroup], actor: Person) -> None:
    for command in commands:
        stage.wire.send(command, actor.id)
    stage.wire.flush()


def name_of(stage: World, who: Person) -> str:
    return str(stage.rows(Principal.GROUPS, "SELECT name FROM groups WHERE id = %s", group_of(who.id))[0][0])


_WRITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
"""


@contextmanager
def amid_a_batch(product: Product, begin) -> Iterator[None]:  # type: ignore[no-untyped-def]
    """Freeze the worker between the begin and the commit of a batch: no batch could hold its event loop for longer."""
    pid = product.services[Principal.GROUPS].pid
    url = product.stack.postgres.url(Principal.GROUPS).replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:

        def writes() -> bool:
            return connection.execute(_WRITING).fetchone() != (0,)

        begin()
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline, "no batch was met"
            if not writes():
                continue
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.3)
            if writes():
                break
            os.kill(pid, signal.SIGCONT)
        try:
            yield
            assert writes(), "the batch did not wait"
        finally:
            os.kill(pid, signal.SIGCONT)
