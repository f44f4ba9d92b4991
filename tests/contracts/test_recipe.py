"""The recipe for a new message is done as it stands in the documents, to a copy of the tree: what it says is enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
RECIPE = (CHECKOUT / "docs" / "new-message.md").read_text()

MOST_BY_HAND = 5

GENERATED = (
    "contracts/schemas/",
    "contracts/asyncapi/",
    "contracts/popfax_contracts/version.py",
    "docs/",
    "contracts/popfax_contracts/_version.py",
)

TRIED = """\
from popfax_contracts.groups import GroupRenamed, RenameRefused, ResetGroupName
from popfax_contracts.message import group_of
from services.groups.commands import POSTABLE
from services.groups.consumers import GROUPS
from services.groups.domain import AccountState, Group, Subscriber
from tests.unit.given import NOW, given, id_of

ADA, GROUP = id_of("Ada"), group_of(id_of("Ada"))
OWNER = Subscriber(ADA, "a@example.org", "Ada", "Lovelace", "en", AccountState.ACTIVE, NOW, 0, 0)
COMMAND = ResetGroupName(group_id=GROUP)


def test_it_is_done() -> None:
    scene = given(GROUPS, OWNER, Group(GROUP, ADA, "The office", True, None)).when(COMMAND, actor=ADA)
    scene.then(GroupRenamed(group_id=GROUP, owner_id=ADA)).leaves(OWNER, Group(GROUP, ADA, "Ada Lovelace", False, None))


def test_it_is_refused() -> None:
    told = RenameRefused(group_id=GROUP, code="not_owner", command_type=COMMAND.TYPE)
    given(GROUPS, OWNER).when(COMMAND, actor=id_of("Bob")).then(told)


def test_it_can_be_posted() -> None:
    assert POSTABLE["reset-group-name"] is ResetGroupName
"""


def steps() -> list[tuple[str, list[list[str]]]]:
    """The recipe's files, each with its hunks."""
    blocks = re.findall(r"^```diff\n(.*?)^```$", RECIPE, re.DOTALL | re.MULTILINE)
    found = []
    for block in blocks:
        name, *hunks = re.split(r"^@@\n", block, flags=re.MULTILINE)
        found.append((name.strip(), [hunk.splitlines() for hunk in hunks]))
    return found


def written(text: str, hunk: list[str]) -> str:
    """The text with a hunk's lines exchanged, which must be there once."""
    before = "".join(f"{line[1:]}\n" for line in hunk if line[:1] in ("-", " "))
    after = "".join(f"{line[1:]}\n" for line in hunk if line[:1] in ("+", " "))
    if not before:
        assert not text, "without a place to stand, it is a new file"
        return after
    assert text.count(before) == 1, f"the recipe names a place that is not there, or more than once:\n{before}"
    return text.replace(before, after)


def done_by_hand() -> dict[str, str]:
    """The recipe's files as they are once it is done. Raises for a place that is not there."""
    texts: dict[str, str] = {}
    for name, hunks in steps():
        path = CHECKOUT / name
        text = texts.get(name) or (path.read_text() if path.exists() else "")
        for hunk in hunks:
            text = written(text, hunk)
        texts[name] = text
    return texts


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the recipe's command in it."""
    copy = tmp_path_factory.mktemp("recipe") / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CHECKOUT / name, copy / name)
    for name, text in done_by_hand().items():
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(copy, "-m", "deploy.contract_tools")
    run(copy, "-m", "tests.documents")
    (copy / "tests" / "unit" / "test_tried.py").write_text(TRIED)
    return copy


def run(tree: Path, *arguments: str) -> None:
    """Run Python on the copy: its own code, with this environment's packages."""
    paths = {
        "PYTHONPATH": f"{tree}:{tree / 'contracts'}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tree, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_few_files_are_written_by_hand() -> None:
    files = [name for name, _ in steps()]
    assert len(set(files)) == len(files) <= MOST_BY_HAND


def test_each_step_finds_its_place() -> None:
    for name, text in done_by_hand().items():
        if name.endswith(".py"):
            compile(text, name, "exec")


@pytest.mark.drill
def test_all_else_that_changes_is_generated(tree: Path) -> None:
    by_hand = {name for name, _ in steps()} | {"tests/unit/test_tried.py"}
    paths = {str(path.relative_to(tree)): path for path in tree.rglob("*") if path.is_file()}
    kept = {name: path for name, path in paths.items() if "__pycache__" not in name and not name.startswith(".")}
    changed = {
        name
        for name, path in kept.items()
        if not (CHECKOUT / name).exists() or (CHECKOUT / name).read_bytes() != path.read_bytes()
    }
    assert by_hand <= changed
    assert {name for name in changed - by_hand if not name.startswith(GENERATED)} == set()
    assert changed - by_hand, "nothing was generated"


CHECKS = (
    "tests/unit/test_tried.py",
    "tests/unit/test_page_words.py",
    "tests/unit/test_docs.py",
    "tests/unit/test_topics.py",
    "tests/contracts/test_files.py",
    "tests/architecture/test_handlers.py",
)


@pytest.mark.drill
def test_the_new_command_works_and_everything_that_is_derived_from_it_is_complete(tree: Path) -> None:
    run(tree, "-m", "pytest", *CHECKS, "-q", "-p", "no:cacheprovider", "-k", "not type_checker")
    run(tree, "-m", "ruff", "check", "--quiet", "contracts", "services")
    run(tree, "-m", "tests.simulation", "0", "3")


def test_a_place_that_is_not_there_is_found() -> None:
    with pytest.raises(AssertionError, match="not there"):
        written("a\nb\n", [" a", "+x", " c"])
