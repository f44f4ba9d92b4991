"""Finds a Chromium: an installed one, or one that Playwright has downloaded."""

import os
import shutil
from pathlib import Path

VARIABLE = "CHROMIUM"
"""The environment variable that names a browser."""

_INSTALLED = (
    "chromium-headless-shell",  # nobody looks at its windows: without any, it needs less than half of the time
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_PLAYWRIGHTS = (".cache/ms-playwright", "Library/Caches/ms-playwright")
_NAMES = ("chrome", "Chromium")


def find() -> str | None:
    """Return the path of a browser's executable, None if there is none."""
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
