"""Finds a Chromium: an installed one, one that Playwright has fetched, or Debian's package where we may install it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.local.errors import StackError

VARIABLE = "CHROMIUM"
"""The environment variable that names a browser."""

_INSTALLED = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_PLAYWRIGHTS = (".cache/ms-playwright", "Library/Caches/ms-playwright")
_NAMES = ("chrome", "Chromium")
_INSTALL_TIMEOUT_S = 600


def find() -> str | None:
    """Give a browser's program, None if there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named)
    for name in _INSTALLED:
        if found := shutil.which(name):
            return found
    caches = [Path(place) for place in (os.environ.get("PLAYWRIGHT_BROWSERS_PATH"),) if place]
    for folder in [*caches, *(Path.home() / each for each in _PLAYWRIGHTS)]:
        for name in _NAMES:
            for path in sorted(folder.glob(f"chromium-*/**/{name}"), reverse=True):
                return str(path)
    return None


def find_or_install(progress: Callable[[str], None] = lambda _: None) -> str:
    """Give a browser's program, after installing Debian's package if we may. Raises StackError when there is none."""
    if found := find():
        return found
    if VARIABLE not in os.environ and os.geteuid() == 0 and shutil.which("apt-get"):
        progress("installing Debian's chromium")
        for step in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            command = ["apt-get", *step]
            try:
                subprocess.run(
                    command, check=True, capture_output=True, timeout=_INSTALL_TIMEOUT_S, stdin=subprocess.DEVNULL
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise StackError(f"{' '.join(command)} failed: {error}") from error
        if found := find():
            return found
    raise StackError(
        "a Chromium is needed: install one (apt-get install chromium), have Playwright fetch one"
        f" (.venv/bin/playwright install chromium), or name one with {VARIABLE}=/path/to/chrome"
    )
