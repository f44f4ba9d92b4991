"""The images as they were built: whose privileges they need, what is in them, and whether their SBOM says so."""

import json
import re
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from tests.architecture.images import IMAGES as STAGES
from tests.architecture.test_images import IMPORT_ALL, importable
from tests.engine.docker import CONFINED, IMAGES, inspect, python, run, without_shells

each_image = pytest.mark.parametrize("stage", STAGES)

FIRST_WORDS = {"service": "say which service", "operator": "Usage: popfax", "mailsink": None}
"""What each says when it is started without a command. The mail sink says nothing, and serves."""

WRITE = """
import os
for directory, _, _ in os.walk("/"):
    if not directory.startswith(("/proc", "/sys", "/dev")) and os.access(directory, os.W_OK):
        print(directory)
"""

INSTALLERS = """
import importlib.util, sys
print(*(each for each in ("pip", "setuptools", "ensurepip", "wheel") if importlib.util.find_spec(each)))
"""

PYTHONS_PACKAGES = """
from importlib.metadata import distributions
for each in distributions():
    print(each.name, each.version)
"""

GREETING = """
import smtplib, time
for attempt in range(100):
    try:
        smtplib.SMTP("127.0.0.1", 2525, timeout=5).quit()
        break
    except OSError:
        time.sleep(0.1)
else:
    raise SystemExit("it does not serve")
"""

SBOM = "print(open('/opt/popfax/sbom.cdx.json').read())"
DEBIANS_PACKAGES = ("dpkg-query", "-W", "-f", "${Package} ${Version}\\n")
BASES_PYTHON = "import sys; print(sys._base_executable)"


@each_image
def test_runs_as_nobody_and_ends_on_sigterm(stage: str) -> None:
    config = inspect(IMAGES[stage])["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert (
        python(IMAGES[stage], "import os; print(os.getuid(), os.getgid(), os.getgroups())") == "10001 10001 [10001]\n"
    )


@each_image
def test_user_may_write_nowhere_but_where_mails_are_kept(stage: str) -> None:
    """Even on a root file system that is not read-only: nobody can change the code that runs."""
    found = python(IMAGES[stage], WRITE, options=("--cap-drop=ALL", "--network=none")).split()
    scratch = {"/tmp", "/var/tmp", "/run/lock"}
    mails = {"/var/lib/popfax-mails"} if stage == "mailsink" else set()
    assert set(found) - scratch == mails


@each_image
def test_code_is_there_and_runs_without_writing_and_without_a_shell(stage: str) -> None:
    options = [*CONFINED, *without_shells(IMAGES[stage])]
    assert python(IMAGES[stage], IMPORT_ALL, *importable(stage), options=options) == ""


@each_image
def test_command_runs_without_a_shell(stage: str) -> None:
    image, words = IMAGES[stage], FIRST_WORDS[stage]
    name = f"popfax-test-{stage}"
    run("docker", "create", "--name", name, *CONFINED, *without_shells(image), image)
    try:
        run("docker", "start", name)
        if words is None:
            run("docker", "exec", name, "python", "-c", GREETING)
            run("docker", "stop", "--time", "5", name)
            assert inspect(name)["State"]["ExitCode"] == 0
        else:
            run("docker", "wait", name)
            assert words in run("sh", "-c", f"docker logs {name} 2>&1")
    finally:
        run("docker", "rm", "--force", "--volumes", name)


@each_image
def test_shell_that_is_hidden_is_missed(stage: str) -> None:
    """Else the two tests before this one would show nothing."""
    options = [*CONFINED, *without_shells(IMAGES[stage])]
    with pytest.raises(AssertionError, match="PermissionError"):
        python(IMAGES[stage], "import subprocess; subprocess.run('true', shell=True)", options=options)


@each_image
def test_has_no_installer(stage: str) -> None:
    image = IMAGES[stage]
    base = python(image, BASES_PYTHON).strip()
    assert python(image, INSTALLERS) == "\n"
    assert run("docker", "run", "--rm", *CONFINED, image, base, "-c", INSTALLERS) == "\n"
    assert run("docker", "run", "--rm", *CONFINED, image, base, "-c", PYTHONS_PACKAGES) == ""


@each_image
def test_sbom_lists_what_is_installed(stage: str) -> None:
    image, bom = IMAGES[stage], json.loads(python(IMAGES[stage], SBOM))
    assert listed(bom, "pkg:pypi/") == pairs(python(image, PYTHONS_PACKAGES))
    assert listed(bom, "pkg:deb/debian/") == pairs(run("docker", "run", "--rm", *CONFINED, image, *DEBIANS_PACKAGES))
    version = python(image, "import platform; print(platform.python_version())").strip()
    assert [each["version"] for each in bom["components"] if each["type"] == "platform"] == [version]
    assert bom["metadata"]["component"]["name"] == "popfax-groups"


@each_image
def test_sbom_is_valid(stage: str) -> None:
    text = python(IMAGES[stage], SBOM)
    assert JsonStrictValidator(SchemaVersion.from_version(json.loads(text)["specVersion"])).validate_str(text) is None


def listed(bom: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    found = (each for each in bom["components"] if each.get("purl", "").startswith(kind))
    return {(canonicalize_name(each["name"]), each["version"]) for each in found}


def pairs(lines: str) -> set[tuple[str, str]]:
    return {(canonicalize_name(name), version) for name, version in re.findall(r"^(\S+) (\S+)$", lines, re.MULTILINE)}
