"""A handler and what it needs: wired by type, and read by name only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.rules import handler_modules

CHECKOUT = Path(__file__).resolve().parents[2]

TABLE = """\
from popfax_contracts.groups import DetachMembers, LeaveGroup, RenameGroup
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment, contents, handles, needs
from services.groups.store import LoadPlan, Roster


def _group(load: LoadPlan, message: Incoming[RenameGroup | DetachMembers]) -> None:
    load.groups.add(message.body.group_id)


@needs(_group)
def rename(roster: Roster, message: Incoming[RenameGroup], moment: Moment) -> Outcome:
    return ()


@needs(_group)
def detach(roster: Roster, message: Incoming[DetachMembers], moment: Moment) -> Outcome:
    return ()


@needs(_group)
def leave(roster: Roster, message: Incoming[LeaveGroup], moment: Moment) -> Outcome:
    return ()


"""


@pytest.mark.parametrize(
    ("entries", "errors"),
    [
        (["handles(RenameGroup, rename)", "handles(DetachMembers, detach)"], 0),
        (["handles(RenameGroup, detach)", "handles(DetachMembers, rename)"], 2),
        (["handles(LeaveGroup, leave)"], 1),  # its needs are made for other messages
    ],
    ids=["as it should be", "handlers exchanged", "needs of another message"],
)
def test_the_type_checker_compares_a_handler_and_its_needs_with_the_message(
    tmp_path: Path, entries: list[str], errors: int
) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text(TABLE + "TABLE = contents(\n" + "".join(f"    {entry},\n" for entry in entries) + ")\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(snippet)]
    checked = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=250)
    found = [line for line in checked.stdout.splitlines() if "error:" in line]
    assert len(found) == errors, checked.stdout + checked.stderr
    assert all("handles" in line for line in found), found


def reads_all(tree: ast.AST) -> list[int]:
    """Find where everything that happens to be loaded is read, whoever asked for it."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "loaded"]


@pytest.mark.parametrize("path", handler_modules(CHECKOUT), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_handler_reads_only_what_it_names(path: Path) -> None:
    assert reads_all(ast.parse(path.read_text())) == []


def test_a_handler_that_reads_all_is_found() -> None:
    assert reads_all(ast.parse("for row in roster.memberships.loaded(): pass")) == [1]
