"""Migrations expand first and contract later: what squawk says of each, and what each says of other versions."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, Principal
from services.chassis import migrate

SETTINGS = tomllib.loads((Path(__file__).parent / "squawk.toml").read_text())
RELEASES = tomllib.loads((CHECKOUT / "releases.toml").read_text())["release"]
MIGRATIONS = [(service, script) for service in SERVICES for script in migrate.revisions(service)]


def _findings(sql: str) -> list[str]:
    """Return the rules that a migration's SQL breaks."""
    command = [
        str(Path(sys.executable).parent / "squawk"),
        f"--pg-version={SETTINGS['pg_version']}",
        f"--exclude={','.join(SETTINGS['rules'])}",
        "--reporter=json",
        "--stdin-filepath=migration.sql",
    ]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return sorted({each["rule_name"] for each in json.loads(done.stdout)})


def _named_heads(service: Principal) -> list[str]:
    return [release["heads"][service.value] for release in RELEASES if release["commit"]]


def _promised(service: Principal) -> list[Any]:
    """Return the migrations that came after the newest release that is named."""
    scripts, heads = migrate.revisions(service), _named_heads(service)
    if not heads:
        return []
    at = [script.revision for script in scripts].index(heads[-1])
    return scripts[at + 1 :]


CHECKED = [(service, s) for service, s in MIGRATIONS if s.revision not in SETTINGS["revisions"]]


@pytest.mark.parametrize(("service", "script"), CHECKED, ids=[script.revision for _, script in CHECKED])
def test_squawk_finds_nothing_in(service: Principal, script: Any) -> None:
    assert _findings(migrate.sql(service, script.revision)) == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE accounts ADD COLUMN x TEXT NOT NULL;",
        "ALTER TABLE accounts DROP COLUMN version;",
        "ALTER TABLE accounts RENAME COLUMN version TO revision_number;",
        "ALTER TABLE accounts ADD CONSTRAINT positive CHECK (balance_units > 0);",
        "CREATE INDEX slow ON accounts (version);",
    ],
)
def test_squawk_finds_what_would_lock_or_break(statement: str) -> None:
    assert _findings(f"BEGIN;\n{statement}\nCOMMIT;") != []


def test_every_exception_has_a_reason_and_a_migration_that_needs_it() -> None:
    known = {script.revision: service for service, script in MIGRATIONS}
    for revision, reason in SETTINGS["revisions"].items():
        assert len(reason) > 20
        heads = _named_heads(known[revision])
        assert not heads or revision <= heads[0], f"{revision} is younger than the promise"
        if "reads the rows" not in reason:
            assert _findings(migrate.sql(known[revision], revision)) != []


@pytest.mark.parametrize("service", SERVICES)
def test_each_migration_since_the_last_release_lets_its_code_work(service: Principal) -> None:
    revisions = [script.revision for script in migrate.revisions(service)]
    for script in _promised(service):
        oldest = getattr(script.module, "compatible_from", script.revision)
        last_release = _named_heads(service)[-1]
        assert revisions.index(oldest) <= revisions.index(last_release), f"{script.revision} breaks the release before"


def test_releases_are_named_by_their_commits_all_but_the_newest() -> None:
    for release in RELEASES[:-1]:
        assert re.fullmatch(r"[0-9a-f]{40}", release["commit"])
    for release in RELEASES:
        if release["commit"]:
            assert set(release["heads"]) == {service.value for service in SERVICES}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert RELEASES[-1]["version"] == project["version"]
    assert f"## [{project['version']}]" in (CHECKOUT / "CHANGELOG.md").read_text() or not RELEASES[-1]["commit"]
