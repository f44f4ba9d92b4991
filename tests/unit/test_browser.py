"""Where a browser is looked for, and what is said when there is none."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local.errors import StackError
from deploy.operator.cli import browser
from tests.browser import find_or_install


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a browser, whose user is nobody special."""
    for name in (browser.VARIABLE, "PLAYWRIGHT_BROWSERS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(browser, "_INSTALLED", ("chromium",))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def program(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_takes_the_one_that_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "bin" / "chromium")
    named = program(bare / "elsewhere" / "chrome")
    monkeypatch.setenv(browser.VARIABLE, named)
    assert browser.find() == named


def test_takes_no_other_than_the_one_that_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "bin" / "chromium")
    monkeypatch.setenv(browser.VARIABLE, str(bare / "not-there"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StackError, match=browser.VARIABLE):
        find_or_install()


def test_takes_an_installed_one_before_playwrights(bare: Path) -> None:
    cached = program(bare / ".cache/ms-playwright/chromium-1200/chrome-linux/chrome")
    assert browser.find() == cached
    assert find_or_install() == cached
    installed = program(bare / "bin" / "chromium")
    assert browser.find() == installed


def test_takes_playwrights_newest(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(bare / "own"))
    program(bare / "own/chromium-1100/chrome-linux/chrome")
    newest = program(bare / "own/chromium-1200/chrome-linux/chrome")
    assert browser.find() == newest


def test_says_what_to_do_when_there_is_none(bare: Path) -> None:
    assert browser.find() is None
    with pytest.raises(StackError, match="apt-get install chromium"):
        find_or_install()


def test_installs_debians_where_it_may(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        ran.append(command)
        if "install" in command:
            program(bare / "bin" / "chromium")

    program(bare / "bin" / "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", run)
    assert find_or_install() == shutil.which("chromium")
    assert [command[1] for command in ran] == ["update", "install"]


def test_says_so_when_the_package_can_not_be_installed(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(100, command)

    program(bare / "bin" / "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(StackError, match="apt-get update failed"):
        find_or_install()
