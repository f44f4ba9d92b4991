"""The versions of an upgrade: where their code is, and what runs it."""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.process import run
from deploy.paths import CHECKOUT, STATE, only_one_fetches

_PACKAGES = Path("requirements/operator.txt")
"""The locked packages of the services and of the command line, in each version's checkout."""

_LOCKED = re.compile(r"^([a-z0-9][\w.-]*)==(\S+)( ;)?", re.MULTILINE)
"""A package of a lock file: its name, its version, and whether it has a marker."""

_CODE = ("contracts", "services", "deploy", "requirements")
_INSTALL_IDLE_S = 60.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Version:
    """A version of the product: its name, and its checkout."""

    name: str
    code: Path

    @cached_property
    def python(self) -> str:
        """The interpreter that has its packages: this one, unless it lacks any of them in the very same version."""
        return sys.executable if self._runs_here else str(self._environment / "bin" / "python")

    def install(self, progress: Progress) -> None:
        """Install its own packages, once, unless this environment has them. Raises StackError."""
        if self._runs_here or (self._environment / "installed").exists():
            return
        progress(f"installing the packages of {self.name}")
        shutil.rmtree(self._environment, ignore_errors=True)
        log = self.code / "install.log"
        run([sys.executable, "-m", "venv", "--without-pip", str(self._environment)], self.code, log, _INSTALL_IDLE_S)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, "install"]
        run([*pip, "--require-hashes", "-r", str(self.code / _PACKAGES)], self.code, log, _INSTALL_IDLE_S)
        (self._environment / "installed").touch()

    @cached_property
    def _runs_here(self) -> bool:
        return are_installed((self.code / _PACKAGES).read_text())

    @property
    def _environment(self) -> Path:
        return self.code / ".local" / "drill-venv"


def are_installed(requirements: str) -> bool:
    """Return whether this environment has all packages of a lock file, in the versions that it names."""
    locked: dict[str, set[str]] = {}
    elsewhere: set[str] = set()
    for name, version, marker in _LOCKED.findall(requirements):
        locked.setdefault(name, set()).add(version)
        if marker:  # for another system, or another Python, perhaps
            elsewhere.add(name)
    found = {name: _installed(name) for name in locked}
    return all(found[name] in versions or (not found[name] and name in elsewhere) for name, versions in locked.items())


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def this() -> Version:
    """Return the version that this command is of."""
    return Version("this version", CHECKOUT)


def in_checkout(directory: Path) -> Version:
    """Return the version that a directory is a checkout of. Raises StackError if it is none."""
    if not (directory / _PACKAGES).is_file() or not (directory / "services").is_dir():
        raise StackError(f"{directory} is no checkout of the product")
    return Version(directory.resolve().name, directory.resolve())


def last_release(checkout: Path = CHECKOUT, state: Path = STATE) -> Version:
    """Return the newest release whose commit `releases.toml` names, unpacked from git. Raises StackError."""
    releases = tomllib.loads((checkout / "releases.toml").read_text())["release"]
    named = [release for release in releases if release["commit"]]
    if not named:
        raise StackError("releases.toml names no release's commit yet: name a checkout of the old version with --from")
    name, commit = named[-1]["version"], named[-1]["commit"]
    code = state / "releases" / commit
    with only_one_fetches(code):
        if not code.exists():
            _unpack(checkout, name, commit, code)
    return Version(name, code)


def _unpack(checkout: Path, name: str, commit: str, code: Path) -> None:
    """Unpack a commit's code. Raises StackError if git or the commit is not here."""
    try:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", commit, *_CODE],  # noqa: S607
            cwd=checkout,
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise StackError(
            f"the commit of {name} ({commit[:12]}) is not in this clone: `git fetch --unshallow` brings it, "
            "or name a checkout of it with --from"
        ) from error
    unfinished = code.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(unfinished, filter="data")
    unfinished.rename(code)
