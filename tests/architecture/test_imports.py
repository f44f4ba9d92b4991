"""The shape of the code: what may import what, and what may be where. Each rule is shown to fail on a breach of it."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.paths import CHECKOUT
from tests.architecture import rules

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")

CONTRACTS = tuple(
    contract["name"]
    for contract in tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
)

BREACHES = [
    (0, "contracts/popfax_contracts/message.py", "import services.chassis.rows"),
    (0, "services/groups/app.py", "import deploy.operator.topics"),
    (1, "services/ledger/handlers.py", "import services.groups.domain"),
    (1, "services/chassis/rows.py", "import services.ledger.domain"),
    (1, "services/billing.py", "import services.chassis.rows"),
    (2, "deploy/operator/cli/saga.py", "import deploy.local.stack"),
    (2, "deploy/operator/personal.py", "import deploy.demo.cast"),
    (2, "deploy/local/stack.py", "import deploy.demo.cast"),
    (2, "deploy/local/stack.py", "import deploy.contract_tools.schemas"),
    (2, "deploy/contract_tools/parser.py", "import deploy.local.paths"),
    (2, "deploy/paths.py", "import deploy.operator.topics"),
    (2, "deploy/shed.py", "import deploy.paths"),
    (3, "deploy/demo/checks.py", "import deploy.contract_tools.schemas"),
    (4, "deploy/operator/topics.py", "import deploy.operator.cli.errors"),
    (4, "deploy/operator/invariants/rows.py", "import deploy.operator.snapshots"),
    (4, "deploy/operator/personal.py", "import deploy.operator.topics"),
    (4, "deploy/operator/drawer.py", "import deploy.operator.topics"),
    (5, "services/ledger/domain.py", "import sqlalchemy"),
    (5, "services/groups/domain.py", "import popfax_contracts.message"),
    (6, "services/provisioning/handlers.py", "import psycopg"),
    (6, "services/groups/sagas/create_member_account.py", "import asyncio"),
    (7, "services/notifications/sender.py", "import aiokafka"),
    (7, "services/provisioning/store.py", "import faststream"),
    (8, "services/groups/commands.py", "import services.groups.web.queries"),
]
"""A contract's place in pyproject.toml, and a line that breaks it. Every contract has one at least."""

Rule = Callable[[Path], list[str]]


def test_every_import_contract_is_kept() -> None:
    verdicts = _lint(CHECKOUT)
    assert verdicts == dict.fromkeys(CONTRACTS, "KEPT")


def test_every_import_contract_has_a_breach_that_shows_it_fail() -> None:
    assert {contract for contract, _, _ in BREACHES} == set(range(len(CONTRACTS)))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of what the files import, each as old as it is: of a copy, only the breach is read."""
    return tmp_path_factory.mktemp("known")


@pytest.mark.parametrize(("contract", "file", "line"), BREACHES)
def test_import_contract_breaks_on_a_breach(tree: Path, known: Path, contract: int, file: str, line: str) -> None:
    _append(tree, file, line)
    assert _lint(tree, "--cache-dir", str(known))[CONTRACTS[contract]] == "BROKEN"


@pytest.mark.parametrize(
    "rule", [rules.business_words, rules.impure_handlers, rules.missing_rooms, rules.doing_at_import]
)
def test_rule_is_kept(rule: Rule) -> None:
    assert rule(CHECKOUT) == []


def test_every_exception_for_the_plumbing_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for exception in rules.NOT_BUSINESS:
        monkeypatch.setattr(rules, "NOT_BUSINESS", rules.NOT_BUSINESS - {exception})
        assert rules.business_words(CHECKOUT) != [], f"nothing in the chassis says {exception!r} any more"
        monkeypatch.undo()


@pytest.mark.parametrize(
    "line",
    [
        "def load_accounts() -> None: ...",
        "OWNED = 'a member'",
        "class GroupRows: ...",
        "from popfax_contracts.fields import Units",
        "prices = {}",
        "def charge(amount_units: int) -> None: ...",
    ],
)
def test_plumbing_that_speaks_of_the_business_is_found(tree: Path, line: str) -> None:
    _append(tree, "services/chassis/rows.py", line)
    assert rules.business_words(tree) != []


@pytest.mark.parametrize(
    "line",
    [
        "async def credit() -> None: ...",
        "import socket",
        "from pathlib import Path",
        "from datetime import datetime; NOW = datetime.now()",
        "from uuid import uuid4; ID = uuid4()",
        "def log() -> None: print('handled')",
        "try:\n    pass\nexcept Exception:\n    pass",
        "def close(row) -> None: row.state = 'closed'",
        "def close(row) -> None: setattr(row, 'state', 'closed')",
    ],
)
@pytest.mark.parametrize(
    "file",
    ["services/ledger/handlers.py", "services/groups/sagas/create_member_account.py", "services/groups/domain.py"],
)
def test_handler_that_is_not_a_pure_function_is_found(tree: Path, file: str, line: str) -> None:
    _append(tree, file, line)
    assert rules.impure_handlers(tree) != []


@pytest.mark.parametrize("room", rules.ROOMS)
def test_missing_room_is_found(tree: Path, room: str) -> None:
    path = tree / "services" / "ledger" / room
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert any("ledger" in each for each in rules.missing_rooms(tree))


def test_service_without_a_charter_is_found(tree: Path) -> None:
    (tree / "services" / "ledger" / "__init__.py").write_text('"""The ledger."""\n')
    assert rules.missing_rooms(tree) != []


def test_new_service_without_rooms_is_found(tree: Path) -> None:
    (tree / "services" / "billing").mkdir()
    assert any("billing" in each for each in rules.missing_rooms(tree))


def test_modules_that_act_at_import_are_found(tree: Path) -> None:
    for module, line in (
        ("ledger/store", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"),
        ("ledger/domain", "import subprocess; subprocess.run(['true'])"),
        ("groups/domain", "import threading; threading.Thread(target=len, args=('',)).start()"),
    ):
        _append(tree, f"services/{module}.py", line)
    events = {found.rpartition(" ")[2] for found in rules.doing_at_import(tree)}
    assert events >= {"socket.connect", "subprocess.Popen", "threading.Thread.start"}


def _append(tree: Path, file: str, line: str) -> None:
    with (tree / file).open("a") as source:
        source.write(f"\n\n{line}\n")


def _lint(tree: Path, *cached: str) -> dict[str, str]:
    """Run import-linter on a tree; return each contract's verdict."""
    done = subprocess.run(
        [LINT_IMPORTS, *(cached or ["--no-cache"]), "--no-logo"],
        cwd=tree,
        env={"PYTHONPATH": f"{tree}:{tree}/contracts", "NO_COLOR": "1", "COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    verdicts = {}
    for line in done.stdout.splitlines():
        for word in ("KEPT", "BROKEN"):
            if line.endswith(f" {word}"):
                verdicts[line.removesuffix(f" {word}")] = word
    assert (done.returncode == 0) == (set(verdicts.values()) == {"KEPT"}), done.stdout + done.stderr
    return verdicts
