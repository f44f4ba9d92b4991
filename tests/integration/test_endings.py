"""How the local stack's processes begin and end on a machine that has no time for them, or when told to stop."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.errors import StackError
from deploy.local.ports import free_port
from deploy.local.process import Child, run, wait_until
from deploy.operator.cli.errors import what_failed
from deploy.paths import CHECKOUT
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.early_exit import SIGNALS

POPFAX = str(Path(sys.executable).with_name("popfax"))
BEGUN_S = 60.0
"""How long a process may take to begin."""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child("child", tmp_path)
    yield made
    made.kill()


def _python(code: str, directory: Path) -> list[str]:
    return [sys.executable, "-c", code, str(directory)]


# --- services that are told to end while they begin -------------------------------------------------------------------


def _environment(service: Principal) -> dict[str, str]:
    """Settings of a service whose servers are all away."""
    prefix, nowhere = service.upper(), f"127.0.0.1:{free_port()}"
    return {
        f"{prefix}_KAFKA_BOOTSTRAP": nowhere,
        f"{prefix}_KAFKA_USERNAME": "x",
        f"{prefix}_KAFKA_PASSWORD": "x",
        f"{prefix}_DATABASE_URL": f"postgresql+psycopg://x:x@{nowhere}/x",
        f"{prefix}_HTTP_PORT": str(free_port()),
        f"{prefix}_SMTP_HOST": "127.0.0.1",
        f"{prefix}_SMTP_PORT": str(free_port()),
    }


@pytest.mark.parametrize("after_ms", [0, 50, 100, 200, 400, 1500])
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_told_to_end_while_it_begins_exits_0(
    service: Principal, after_ms: int, tmp_path: Path, child: Child
) -> None:
    command = [sys.executable, "-m", f"services.{service}.app", str(tmp_path)]
    child.start(command, directory=CHECKOUT, environment=_environment(service), held=SIGNALS)
    time.sleep(after_ms / 1000)
    assert child.stop(signal.SIGTERM, timeout_s=60) == 0, child.log.read_text()
    assert "Traceback" not in child.log.read_text()


# --- children that take their time ------------------------------------------------------------------------------------

_BUSY = """
import pathlib, sys, time
end = time.monotonic() + 4
while time.monotonic() < end:
    pass
(pathlib.Path(sys.argv[1]) / "ready").touch()
"""
_IDLE = "print('waiting for nobody', flush=True); import time; time.sleep(60)"


def test_a_child_that_works_is_given_its_time(tmp_path: Path, child: Child) -> None:
    child.start(_python(_BUSY + "time.sleep(60)", tmp_path))
    child.wait_ready((tmp_path / "ready").exists, idle_s=3)


def test_a_child_that_does_nothing_is_given_up(tmp_path: Path, child: Child) -> None:
    child.start(_python(_IDLE, tmp_path))
    assert wait_until(lambda: "waiting" in child.log.read_text(), BEGUN_S)
    with pytest.raises(StackError, match=r"child was not ready after .* did nothing .*waiting for nobody.*child\.log"):
        child.wait_ready(lambda: False, idle_s=2)
    assert not child.running


def test_a_child_that_ends_is_not_waited_for(tmp_path: Path, child: Child) -> None:
    child.start(_python("print('no such thing'); raise SystemExit(3)", tmp_path))
    with pytest.raises(StackError, match="ended at once: no such thing"):
        child.wait_ready(lambda: False, idle_s=60)


def test_a_command_that_works_is_given_its_time_and_one_that_does_nothing_is_not(tmp_path: Path) -> None:
    run(_python(_BUSY, tmp_path), tmp_path, tmp_path / "busy.log", idle_s=3)
    begun = time.monotonic()
    with pytest.raises(StackError, match=r"was not done after .* did nothing"):
        run(_python(_IDLE, tmp_path), tmp_path, tmp_path / "idle.log", idle_s=2)
    assert time.monotonic() - begun < 40


_TRACE = """Exception in thread "main" java.lang.RuntimeException: it can't be formatted
\tat kafka.tools.StorageTool.main(StorageTool.scala:1)
Caused by: java.io.IOException: No space left on device
\tat java.base/sun.nio.ch.FileDispatcherImpl.write0(Native Method)
\t... 8 more
"""


def test_of_a_java_trace_the_cause_is_told(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"failed: Caused by: java\.io\.IOException: No space left on device \(see"):
        run(_python(f"print({_TRACE!r}); raise SystemExit(1)", tmp_path), tmp_path, tmp_path / "java.log", idle_s=60)


# --- the command line's last word -------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(OSError, match="No space left") as full, Path("/dev/full").open("wb", buffering=0) as disk:
        disk.write(b"x")
    assert what_failed(full.value) == ("the disk is full: make room, and try again (--directory is another place)")


def test_a_time_out_and_a_lack_of_permission_are_one_line() -> None:
    assert what_failed(TimeoutError("created, but not seen")) == "no answer in time: created, but not seen; try again"
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES), "/root/x")
    assert what_failed(denied).startswith("not allowed to write: /root/x: Permission denied")


def test_a_directory_that_can_not_be_made_is_one_line() -> None:
    command = [POPFAX, "up", "--directory", "/proc/nowhere/popfax"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "/proc/nowhere" in done.stderr


def test_a_port_that_is_none_is_one_line(tmp_path: Path) -> None:
    command, environment = [POPFAX, "up", "--directory", str(tmp_path)], {**os.environ, "POPFAX_KAFKA_PORT": "kafka"}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "POPFAX_KAFKA_PORT" in done.stderr


_SWALLOWING = """
import os, signal, sys

class Importer:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["SWALLOWS"]:
            try:
                os.kill(os.getpid(), signal.SIGINT)
                compile("pass", "", "exec")
            except BaseException:
                pass

sys.meta_path.insert(0, Importer())
from deploy.operator.cli import main
main()
"""


@pytest.mark.parametrize("module", ["deploy.operator.cli.app", "deploy.local.up"])
def test_an_import_that_takes_every_exception_for_its_own_does_not_keep_an_interrupt_to_itself(module: str) -> None:
    command, environment = [sys.executable, "-c", _SWALLOWING, "--help"], {**os.environ, "SWALLOWS": module}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "popfax: interrupted\n")


@pytest.mark.parametrize("after_s", [2.0, 6.0, pytest.param(14.0, marks=pytest.mark.drill)])
def test_a_start_that_is_interrupted_ends_in_one_line_and_leaves_nothing(tmp_path: Path, after_s: float) -> None:
    command = [POPFAX, "up", "--json", "--directory", str(tmp_path)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: psutil.Process(process.pid).cpu_times().user > 0.2, BEGUN_S), "no line of it has run"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=120)
    assert "Traceback" not in said, said
    assert (process.returncode, said.splitlines()[-1:]) in (
        (130, ["popfax: interrupted"]),
        (0, said.splitlines()[-1:]),  # it was up by then, and Ctrl-C is how it ends
    )
    assert (process.returncode == 0) == bool(out)
    assert not list(tmp_path.rglob("*.process.json"))
