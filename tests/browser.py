"""The browser that the page's tests need: an installed one, or Debian's package if it may be installed."""

import os
import shutil
import subprocess
from collections.abc import Callable

from deploy.local.errors import StackError
from deploy.operator.cli.browser import VARIABLE, find

_INSTALL_TIMEOUT_S = 140
"""For each of two steps: together they take less than a test may (`faulthandler_timeout`)."""


def find_or_install(progress: Callable[[str], None] = lambda _: None) -> str:
    """Return a browser's executable, installing Debian's package if possible. Raises StackError if there is none."""
    if found := find():
        return found
    if VARIABLE not in os.environ and os.geteuid() == 0 and shutil.which("apt-get"):
        progress("installing Debian's chromium-headless-shell")
        for step in (["update"], ["install", "--yes", "--no-install-recommends", "chromium-headless-shell"]):
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
        "a Chromium is needed: install one (apt-get install chromium-headless-shell), have Playwright fetch one"
        f" (.venv/bin/playwright install chromium), or name one with {VARIABLE}=/path/to/chrome"
    )
