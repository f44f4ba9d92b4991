"""Prometheus and its promtool: installed ones, or those of Debian's package, unpacked inside the checkout.

The package is unpacked rather than installed: its installation starts a server, which is none of a test's business.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.local.errors import StackError
from deploy.paths import STATE, only_one_fetches

UNPACKED = STATE / "prometheus"
"""Where Debian's package is unpacked."""

_FETCH_TIMEOUT_S = 95
"""For each of three steps: together they take less than a test may (`faulthandler_timeout`)."""


def find(name: str, unpacked: Path = UNPACKED) -> str | None:
    """Return the path of `prometheus` or `promtool`, None if there is none.

    The environment variable `PROMETHEUS` or `PROMTOOL` names one; then no other counts.
    """
    named = os.environ.get(name.upper())
    return shutil.which(named or name) or (None if named else shutil.which(str(unpacked / "usr" / "bin" / name)))


def find_or_unpack(name: str, unpacked: Path = UNPACKED) -> str:
    """Return the path of `prometheus` or `promtool`, fetching Debian's package if possible.

    Raises StackError if there is none.
    """
    if name.upper() not in os.environ and shutil.which("apt-get"):
        with only_one_fetches(unpacked):
            if find(name, unpacked) is None:
                _fetch(unpacked)
    if found := find(name, unpacked):
        return found
    raise StackError(
        f"{name} is needed: install it (apt-get install prometheus), or name one with {name.upper()}=/path/to/{name}"
    )


def _fetch(unpacked: Path) -> None:
    with tempfile.TemporaryDirectory(dir=unpacked.parent) as made:
        directory = Path(made)
        directory.chmod(0o755)  # for the user as whom apt-get downloads
        if os.geteuid() == 0:
            _run(["apt-get", "update"], directory)
        _run(["apt-get", "download", "prometheus"], directory)
        (package,) = directory.glob("prometheus_*.deb")
        _run(["dpkg-deb", "--extract", package.name, "tree"], directory)
        shutil.rmtree(unpacked, ignore_errors=True)
        (directory / "tree").rename(unpacked)


def _run(command: list[str], directory: Path) -> None:
    try:
        subprocess.run(
            command,
            cwd=directory,
            check=True,
            capture_output=True,
            timeout=_FETCH_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(f"{' '.join(command)} failed: {error}") from error
