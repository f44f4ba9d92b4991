"""The contracts are a package of their own: other teams install it by itself, and publish and read with it."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from deploy.contract_tools import releases
from deploy.paths import CHECKOUT

CONTRACTS = CHECKOUT / "contracts"
PACKAGE = CONTRACTS / "popfax_contracts"

DISTRIBUTIONS = {
    "email_validator": "email-validator",
    "precis_i18n": "precis-i18n",
    "publicsuffixlist": "publicsuffixlist",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic",  # which names the one version that it works with
    "tzdata": "tzdata",
}
"""What the package may import, and what that comes with."""


def dependencies(pyproject: Path) -> set[Requirement]:
    """Return what a project asks for."""
    return {Requirement(line) for line in tomllib.loads(pyproject.read_text())["project"]["dependencies"]}


OWN = dependencies(CONTRACTS / "pyproject.toml")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is published."""
    return build(copied(tmp_path_factory.mktemp("wheel")))


def copied(directory: Path) -> Path:
    """Return a copy of the package's folder, so that building leaves nothing in the checkout."""
    return shutil.copytree(CONTRACTS, directory / "contracts", ignore=shutil.ignore_patterns("__pycache__"))


def build(source: Path) -> Path:
    """Build the wheel of a folder."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source.parent)], source)
    (built,) = source.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment in which there is the wheel, what it asks for, and nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    uv, interpreter = str(Path(sys.executable).with_name("uv")), environment / "bin" / "python"
    run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, "--allow-existing", str(environment)])
    locked = str(CHECKOUT / "requirements" / "services.txt")
    run([uv, "pip", "install", "--quiet", "--python", str(interpreter), "--constraint", locked, str(wheel)])
    return interpreter


def differences(wheel: Path) -> set[str]:
    """Return the files that a wheel has and should not have, and those that it lacks."""
    with zipfile.ZipFile(wheel) as files:
        held = {name for name in files.namelist() if ".dist-info/" not in name}
    return held ^ {f"popfax_contracts/{path.name}" for path in PACKAGE.iterdir() if path.is_file()}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert (PACKAGE / "py.typed").exists()
    assert differences(wheel) == set()


def test_wheel_that_holds_more_or_less_is_found(tmp_path: Path) -> None:
    source = copied(tmp_path)
    (source / "popfax_contracts" / "py.typed").unlink()
    (source / "popfax_contracts" / "examples").mkdir()
    (source / "popfax_contracts" / "examples" / "one.json").write_text("{}")
    assert differences(build(source)) == {"popfax_contracts/py.typed", "popfax_contracts/examples/one.json"}


def test_wheel_says_which_version_it_is_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(files.read(name).decode())
    assert metadata["Name"] == "popfax-contracts"
    assert Version(metadata["Version"]) == Version(releases.current(CHECKOUT))
    assert {*map(Requirement, metadata.get_all("Requires-Dist") or ())} == OWN


def test_package_needs_what_it_imports_and_nothing_else() -> None:
    imported = {name for path in PACKAGE.glob("*.py") for name in roots(path)}
    foreign = imported - {*sys.stdlib_module_names, PACKAGE.name}
    assert {DISTRIBUTIONS[name] for name in foreign} == {requirement.name for requirement in OWN}


def test_product_asks_for_all_that_the_contracts_need() -> None:
    """It has the contracts' sources, not the package, so it must have what they import."""
    assert OWN - dependencies(CHECKOUT / "pyproject.toml") == set()


def test_dependency_that_the_product_does_not_ask_for_is_found(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text((CHECKOUT / "pyproject.toml").read_text().replace('"pydantic~=', '"pydantic>='))
    assert {requirement.name for requirement in OWN - dependencies(project)} == {"pydantic"}


def test_every_module_is_there_for_whoever_installs_it(python: Path) -> None:
    modules = [f"popfax_contracts.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert len(modules) > 1
    told = run([str(python), "-I", "-c", f"import {', '.join(modules)}; print(popfax_contracts.__file__)"])
    assert Path(told.strip()).is_relative_to(python.parents[1])


def test_nothing_of_the_product_is_there(python: Path) -> None:
    for module in ("services", "deploy", "confluent_kafka", "sqlalchemy"):
        with pytest.raises(subprocess.CalledProcessError):
            run([str(python), "-I", "-c", f"import {module}"])


def test_example_publishes_and_reads_with_it(python: Path, tmp_path: Path) -> None:
    example = shutil.copy(CHECKOUT / "examples" / "typed_command.py", tmp_path)
    published, answered = run([str(python), "-I", str(example), "--offline"], tmp_path).splitlines()
    assert published.startswith("would publish to popfax.provisioning.commands: ")
    assert answered == "refused    RegistrationRefused: email_taken (Another account has this e-mail address.)"


def roots(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in named}


def run(command: list[str], directory: Path | None = None) -> str:
    """Run a program in this environment's variables, without its packages; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=directory, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=250
    )
    return done.stdout
