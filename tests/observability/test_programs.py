"""Where Prometheus is looked for, and what is said when there is none."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local.errors import StackError
from tests.observability.programs import find, find_or_unpack


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a Prometheus."""
    monkeypatch.delenv("PROMTOOL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def _program(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_takes_the_one_that_is_named_and_no_other(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(bare / "bin" / "promtool")
    named = _program(bare / "elsewhere" / "promtool")
    monkeypatch.setenv("PROMTOOL", named)
    assert find("promtool") == named
    monkeypatch.setenv("PROMTOOL", str(bare / "not-there"))
    with pytest.raises(StackError, match="PROMTOOL"):
        find_or_unpack("promtool")


def test_takes_an_installed_one_before_the_unpacked_one(bare: Path) -> None:
    unpacked = _program(bare / "unpacked" / "usr" / "bin" / "promtool")
    assert find_or_unpack("promtool", bare / "unpacked") == unpacked
    installed = _program(bare / "bin" / "promtool")
    assert find("promtool", bare / "unpacked") == installed


def test_unpacks_debians_where_there_is_none_and_says_what_to_do_without(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StackError, match="apt-get install prometheus"):
        find_or_unpack("promtool", bare / "unpacked")
    ran: list[str] = []

    def run(command: list[str], cwd: Path, **_: Any) -> None:
        ran.append(command[1])
        if "download" in command:
            (cwd / "prometheus_2.42_amd64.deb").touch()
        if "--extract" in command:
            _program(cwd / "tree" / "usr" / "bin" / "promtool")

    _program(bare / "bin" / "apt-get")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", run)
    assert find_or_unpack("promtool", bare / "unpacked") == str(bare / "unpacked" / "usr" / "bin" / "promtool")
    assert ran == ["update", "download", "--extract"]
    assert find_or_unpack("promtool", bare / "unpacked")
    assert len(ran) == 3, "it is unpacked once"


def test_says_so_when_the_package_can_not_be_had(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(100, command)

    _program(bare / "bin" / "apt-get")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(StackError, match="apt-get download prometheus failed"):
        find_or_unpack("promtool", bare / "unpacked")
