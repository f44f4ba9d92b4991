"""What the documents say is what the code does: generated tables, links, names, decisions, the container's broker."""

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

from deploy.local.kafka import common_properties
from deploy.operator.kafka import ADMIN
from popfax_contracts.topics import SERVICES, Principal
from services import chassis
from services.chassis.settings import KafkaSettings, ServiceSettings
from services.groups.settings import WebSettings
from services.groups.web.page.flows.login import INVITATION
from services.notifications.settings import NotificationsSettings
from tests.documents import blocks

CHECKOUT = Path(__file__).resolve().parents[2]

DOCUMENTS = [
    *blocks.documents(CHECKOUT),
    CHECKOUT / "contracts" / "README.md",
    CHECKOUT / "deploy" / "docker" / "README.md",
    CHECKOUT / "deploy" / "kubernetes" / "README.md",
]

RUNBOOKS = CHECKOUT / "docs" / "operations" / "runbooks"

LINES_OF_README = 200


def test_generated_blocks_are_what_the_code_says_today() -> None:
    assert [str(path.relative_to(CHECKOUT)) for path in blocks.stale(CHECKOUT)] == [], "run `make docs`"


def test_every_generated_block_stands_in_exactly_one_document() -> None:
    present = [name for path in blocks.documents(CHECKOUT) for name in blocks.names(path.read_text())]
    assert sorted(present) == sorted(blocks.BLOCKS)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("_KAFKA_BOOTSTRAP` |", "_KAFKA` |"),  # a setting under another name
        ("| `2000` |", "| `2001` |"),  # another default
        ("| `GROUPS_WEB_POOL` |", "| `GROUPS_MADE_UP` | none | |\n| `GROUPS_WEB_POOL` |"),
    ],
)
def test_stale_block_is_found_and_written_again(tmp_path: Path, text: str, instead: str) -> None:
    document = tmp_path / "docs" / "settings.md"
    document.parent.mkdir()
    for other in ("README.md", "CONTRIBUTING.md"):
        (tmp_path / other).touch()
    before = (CHECKOUT / "docs" / "settings.md").read_text()
    assert text in before
    document.write_text(before.replace(text, instead))
    assert set(blocks.stale(tmp_path)) == {document, tmp_path / blocks.PICTURE}
    blocks.write(tmp_path)
    assert document.read_text() == before
    assert blocks.stale(tmp_path) == {}


def test_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) < LINES_OF_README


def test_every_document_is_in_the_index_with_an_owner() -> None:
    index = CHECKOUT / "docs" / "README.md"
    rows = re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|[^|]+\| ([^|]+?) \|$", index.read_text(), re.MULTILINE)
    listed = {(index.parent / target).resolve() for target, _ in rows}
    elsewhere = {*(CHECKOUT / "docs" / "adr").glob("[0-9]*.md"), *RUNBOOKS.glob("*.md")}  # each has an index of its own
    assert set(DOCUMENTS) - listed - {index} - elsewhere == set()
    assert listed - set(DOCUMENTS) == {CHECKOUT / "CHANGELOG.md"}
    assert all(owner for _, owner in rows)


def test_every_service_has_the_settings_of_a_kafka_client() -> None:
    assert set(KafkaSettings.model_fields) <= set(ServiceSettings.model_fields)


def test_every_decision_is_in_the_index() -> None:
    directory = CHECKOUT / "docs" / "adr"
    decisions = sorted(path.name for path in directory.glob("[0-9]*.md"))
    assert re.findall(r"\]\((\d{4}-[^)]+)\)", (directory / "README.md").read_text()) == decisions


@pytest.mark.parametrize("path", sorted((CHECKOUT / "docs" / "adr").glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_decision_says_context_decision_consequences_and_alternatives(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "Alternatives"]


@pytest.mark.parametrize(
    "path",
    DOCUMENTS,
    ids=lambda path: str(path.relative_to(CHECKOUT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# A *part*, too\n[b](b.md) [c](#c) [a](#a-part-too) [a](a.md#no) [e](https://example.com)\n")
    assert broken_links(document) == ["b.md", "#c", "a.md#no"]


def broken_links(document: Path) -> list[str]:
    """Return the links of a document that lead to no file here, or to no heading of one."""
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    return [target for target in targets if "://" not in target and not _leads_somewhere(document, target)]


def _leads_somewhere(document: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = document.parent / name if name else document
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_functions_and_files_that_a_document_names_exist(path: Path) -> None:
    assert missing_places(path.read_text()) == []


def test_walkthrough_names_functions() -> None:
    assert len(places_of((CHECKOUT / "docs" / "walkthrough.md").read_text())) > 20


def test_modules_that_the_chassis_names_exist() -> None:
    named = re.findall(r"`(\w+)`", chassis.__doc__ or "")
    assert len(named) > 5
    assert [name for name in named if not (CHECKOUT / "services" / "chassis" / f"{name}.py").exists()] == []


def test_missing_function_is_found() -> None:
    document = (
        "`services/ledger/handlers.py:reserve_units`, `services/ledger/handlers.py:steal_units`, `no/such.py:main`"
        "`tests/unit/test_docs.py`, `tests/unit/test_nothing.py`, `<name>/app.py`"
    )
    assert missing_places(document) == [
        "services/ledger/handlers.py:steal_units",
        "no/such.py:main",
        "tests/unit/test_nothing.py",
    ]


def missing_places(document: str) -> list[str]:
    """Return the places, `path` or `path:name`, that a document names and the code has not."""
    return [f"{path}:{name}".rstrip(":") for path, name in places_of(document) if not _defines(CHECKOUT / path, name)]


def places_of(document: str) -> list[tuple[str, str]]:
    """Return the places that a document names, each a path from the top and perhaps a name in that file."""
    return re.findall(r"`(\w+/[\w/]+\.py)(?::([\w.]+))?`", document)


def _defines(path: Path, name: str) -> bool:
    if not path.exists():
        return False
    body = ast.parse(path.read_text()).body
    for part in filter(None, name.split(".")):
        found = next((statement for statement in body if part in _names(statement)), None)
        if found is None:
            return False
        body = getattr(found, "body", [])
    return True


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_compose_broker_is_configured_like_the_local_one() -> None:
    """All but the security settings, whose passwords the container puts in, are the same to the letter."""
    compose = (CHECKOUT / "deploy" / "docker" / "compose.yaml").read_text()
    lines = {line.strip() for line in compose.splitlines()}
    wanted = common_properties("PASSWORD")
    secret = {name for name, value in wanted.items() if "PASSWORD" in value}
    assert [f"{n}={v}" for n, v in wanted.items() if n not in secret and f"{n}={v}" not in lines] == []
    assert [name for name in secret if not any(line.startswith(f"{name}=") for line in lines)] == []
    assert f"super.users=User:{ADMIN}" in lines


INSTALLATIONS = (
    "docs/operations/install.md",
    "deploy/kubernetes/example/services/kustomization.yaml",
    "deploy/docker/compose.yaml",
)


@pytest.mark.parametrize("path", INSTALLATIONS)
def test_an_installation_sets_where_page_and_mails_lead(path: str) -> None:
    assert unlinked((CHECKOUT / path).read_text()) == []


def test_a_link_that_is_not_set_is_found_and_so_is_an_invitation_that_leads_elsewhere() -> None:
    text = (CHECKOUT / INSTALLATIONS[0]).read_text()
    assert unlinked(text.replace("GROUPS_LOGIN_LINK=", "")) == ["GROUPS_LOGIN_LINK"]
    elsewhere = text.replace("NOTIFICATIONS_INVITATION_LINK=$PAGE", "NOTIFICATIONS_INVITATION_LINK=$SITE")
    assert unlinked(elsewhere) == ["$SITE/invitation"]


def unlinked(text: str) -> list[str]:
    """Return the addresses that an installation does not set, and an invitation's that is not beside the group's."""
    fields = {"GROUPS": WebSettings.model_fields, "NOTIFICATIONS": NotificationsSettings.model_fields}
    wanted = {
        f"{service}_{name}".upper()
        for service, names in fields.items()
        for name in names
        if name.endswith("_link") or name == "platform_url"
    }
    found = dict(re.findall(r"^[\s-]*([A-Z]+_(?:[A-Z]+_LINK|PLATFORM_URL))(?:=|: )(\S+)$", text, re.MULTILINE))
    invitation, group = (found.get(f"NOTIFICATIONS_{name}_LINK", "") for name in ("INVITATION", "GROUP"))
    return [*sorted(wanted - set(found)), *([invitation] if invitation != group.rstrip("/") + INVITATION else [])]


def test_capacity_says_of_each_table_how_long_its_rows_are_kept() -> None:
    tables = {service: set(import_module(f"services.{service}.tables").metadata.tables) for service in SERVICES}
    assert missaid((CHECKOUT / "docs" / "operations" / "capacity.md").read_text(), tables) == []


def test_table_of_which_capacity_says_nothing_is_found_and_so_is_one_that_is_not_there() -> None:
    text = "| all | `inbox` | 14 days |\n| ledger, groups | `holds`, `moons` | forever |\n"
    tables = {Principal.LEDGER: {"inbox", "holds", "entries"}, Principal.GROUPS: {"inbox", "holds", "moons"}}
    assert missaid(text, tables) == ["ledger entries", "ledger moons"]


def missaid(text: str, tables: Mapping[Principal, set[str]]) -> list[str]:
    """Return the tables of which a document doesn't say how long rows are kept, and those that are not there."""
    rows = re.findall(r"^\| ([a-z, ]+) \| (`[^|]+`) \|", text, re.MULTILINE)
    said = {
        (service, table)
        for services, named in rows
        for service in (tables if services == "all" else services.split(", "))
        for table in re.findall(r"`(\w+)`", named)
    }
    there = {(service, table) for service, own in tables.items() for table in own}
    return sorted(f"{service} {table}" for service, table in said ^ there)
