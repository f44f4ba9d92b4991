"""On a running product, with a real Prometheus: what rules and panels name is exported, and alerts fire and resolve."""

import os
import re
import urllib.request
from collections.abc import Iterator

import pytest

from deploy.observability import panels
from deploy.observability.alerts import names
from deploy.paths import STATE
from tests.e2e.driver import SETTLED_S, wait
from tests.observability import promql
from tests.observability.__main__ import DOCUMENT, MEASURED
from tests.observability.faults import FAULTS, SLOW
from tests.observability.run import as_table, run
from tests.observability.scene import Scene, scene
from tests.observability.test_dashboards import expressions


@pytest.fixture(scope="module")
def made() -> Iterator[Scene]:
    with scene(STATE / f"test-{os.getpid()}-alerts") as running:
        yield running


def _exported(made: Scene) -> set[str]:
    services = (*made.product.services.values(), made.web)
    texts = [urllib.request.urlopen(f"{each.url}/metrics", timeout=10).read().decode() for each in services]
    records = {name for expression in expressions() for name in promql.names(expression) if ":" in name}
    return records.union(*map(promql.exported, texts))


@pytest.mark.drill
def test_what_panels_and_rules_name_is_exported_by_a_running_product(made: Scene) -> None:
    exported = _exported(made)
    assert promql.unknown(expressions(), exported) == {}
    misspelt = "sum(rate(popfax_mail_sent_total[5m]))"
    assert promql.unknown([misspelt], exported) == {misspelt: {"popfax_mail_sent_total"}}


@pytest.mark.drill
def test_every_query_of_every_panel_returns_something(made: Scene) -> None:
    queries = {each.replace("$__rate_interval", "15s") for each in panels.queries()}

    def silent() -> list[str]:
        return sorted(each for each in queries if not made.prometheus.query(each))

    wait(lambda: silent() == [], "an answer to every query", SETTLED_S)
    assert made.prometheus.query('popfax_open{what="nothing"}') == []


@pytest.mark.drill
def test_each_fault_makes_its_alerts_fire_and_they_resolve_once_it_is_repaired(made: Scene) -> None:
    quick = [fault for fault in FAULTS if fault not in SLOW]
    seen = run(made, only=quick)
    print(as_table(seen))
    assert [each.alert for each in seen] != []
    assert {each.alert for each in seen} == {name for fault in quick for name, _ in fault.alerts}


def test_every_alert_has_a_fault() -> None:
    assert sorted(name for fault in FAULTS for name, _ in fault.alerts) == sorted(names())


def test_every_alert_was_seen_when_the_document_was_written() -> None:
    (table,) = MEASURED.findall(DOCUMENT.read_text())
    rows = re.findall(r"^\| (\w+) \| (.+?) \| [\d.]+ s \| [\d.]+ s \|$", table, re.MULTILINE)
    assert sorted(rows) == sorted((name, fault.what) for fault in FAULTS for name, _ in fault.alerts)
