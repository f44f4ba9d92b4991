"""Child processes that can't outlive their parent, and that a later run can find and end if they do all the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from deploy.local.errors import StackError
from deploy.local.passwords import write_private

_LAUNCHER = Path(__file__).with_name("child.py")
RECORD_SUFFIX = ".process.json"
"""How the names of files end that tell of running processes."""
_KILL_TIMEOUT_S = 10.0
_POLL_S = 0.02
_LOOK_S = 1.0
_AT_WORK = 0.03
"""A process that has used this share of a core is at work: one that only waits and polls uses less."""
_MOST_S = 600.0
"""What works this long, and gets nowhere, works for nothing."""
_FRAME = re.compile(r"\s+(at |\.\.\. \d+ more)")
"""Where somebody was: a line of a Java trace that says nothing of what went wrong."""
_SAME_PROCESS_WITHIN_S = 2.0
"""A process's creation time, as the kernel tells it, moves a little when the clock is set."""

# The kernel ends a child when the *thread* that started it ends. So all children are started by one thread, which
# lives as long as this process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def wait_until(condition: Callable[[], bool], timeout_s: float, interval_s: float = 0.02) -> bool:
    """Wait until `condition` holds. Returns whether it did in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


class Patience:
    """Tells a process that works, however slowly, from one that waits for what does not come.

    On a busy machine everything takes its time. What counts is how long a process has done as good as nothing.
    """

    def __init__(self, pid: int, idle_s: float) -> None:
        """`idle_s` is how long it may be idle. The clock starts now."""
        self._idle_s = idle_s
        self._pid = pid
        self._begun = self._worked = self._looked = time.monotonic()
        self._cpu_s = _cpu_s(self._pid)

    def is_over(self) -> bool:
        """Return whether waiting is pointless by now."""
        now = time.monotonic()
        if (passed := now - self._looked) >= _LOOK_S:
            used = _cpu_s(self._pid)
            if used - self._cpu_s >= passed * _AT_WORK:
                self._worked = now
            self._looked, self._cpu_s = now, used
        return now - self._worked > self._idle_s or now - self._begun > _MOST_S

    def __str__(self) -> str:
        now = time.monotonic()
        return f"after {now - self._begun:.0f} s, of which it did nothing for the last {now - self._worked:.0f}"


def _cpu_s(pid: int) -> float:
    """Return the time that a process and all below it have had on a core, in seconds."""
    total = 0.0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for each in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def run(
    command: Sequence[str],
    directory: Path,
    log: Path,
    idle_s: float,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a command to its end. Raises StackError, with the log's last line, when it fails or gets nowhere."""
    name = Path(command[0]).name
    with _private(log) as output:
        process = subprocess.Popen(
            _launched(command, signal.SIGKILL, user),
            cwd=directory,
            env=None if environment is None else {**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    patience = Patience(process.pid, idle_s)
    try:
        while process.poll() is None:
            if patience.is_over():
                raise StackError(f"{name} was not done {patience}: see {log}")
            time.sleep(_POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise StackError(f"{name} failed: {last_line(log)} (see {log})")


def end_recorded(directory: Path) -> None:
    """End everything that earlier runs left running, according to the records in and below `directory`."""
    for record in sorted(directory.glob(f"*{RECORD_SUFFIX}")) + sorted(directory.glob(f"*/*{RECORD_SUFFIX}")):
        if process := _recorded(record):
            _kill_tree(process)
        record.unlink(missing_ok=True)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something: of Java's traces, the last cause."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = [line.strip() for line in lines if line.strip() and not _FRAME.match(line)]
    return said[-1][:300] if said else "it said nothing"


class Child:
    """One long-lived child process: its log, its end, and the record by which a later run finds it.

    Its command line must contain `directory`, which tells it from a stranger that was given its pid later.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.log = directory / f"{name}.log"
        self._name = name
        self._directory = directory
        self._record = directory / f"{name}{RECORD_SUFFIX}"
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises StackError when it does not run."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        popen = self._popen
        return popen is not None and popen.poll() is None

    def start(
        self,
        command: Sequence[str],
        death_signal: signal.Signals = signal.SIGKILL,
        user: str | None = None,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        held: Iterable[signal.Signals] = (),
    ) -> None:
        """Start it, in `directory` (by default its own), after ending what an earlier run left of it.

        `death_signal` is what it gets when this process dies; `held` are signals that wait until it lets them through.
        Its output is added to the log.
        """
        if self.running:
            raise StackError(f"{self._name} runs already")
        self.end_earlier()
        launched = _launched(command, death_signal, user)
        self._popen = _spawner.submit(self._spawn, launched, directory or self._directory, environment, held).result()
        remember(self._record, self._popen.pid, self._directory)

    def wait_ready(self, ready: Callable[[], bool], idle_s: float) -> None:
        """Wait until `ready` holds. Raises StackError, and leaves nothing running, if it ends or gets nowhere.

        One that works is given its time; `idle_s` is how long it may do nothing.
        """
        popen = self._popen
        patience = Patience(popen.pid if popen else 0, idle_s)
        said = "ended at once"
        while self.running:
            if ready():
                return
            if patience.is_over():
                said = f"was not ready {patience}"
                break
            time.sleep(_POLL_S)
        self.kill()
        raise StackError(f"{self._name} {said}: {last_line(self.log)} (see {self.log})")

    def stop(self, stop_signal: signal.Signals, timeout_s: float) -> int | None:
        """Ask it to end, and kill it if it has not after `timeout_s`. Nothing happens when it does not run.

        Returns its exit code, or None when it had to be killed or did not run.
        """
        code = None
        if (popen := self._popen) is not None:
            popen.send_signal(stop_signal)
            with suppress(subprocess.TimeoutExpired):
                code = popen.wait(timeout_s)
            self.kill()
        return code

    def kill(self) -> None:
        """End it and its own children with SIGKILL, as a crash would. Nothing happens when it does not run."""
        popen, self._popen = self._popen, None  # an interrupted start is ended from two threads
        if popen is None:
            return
        if popen.poll() is None:
            with suppress(psutil.NoSuchProcess):
                _kill_tree(psutil.Process(popen.pid))
        popen.wait(_KILL_TIMEOUT_S)
        self._record.unlink(missing_ok=True)

    def end_earlier(self) -> None:
        """End what an earlier run left of it."""
        if process := _recorded(self._record):
            _kill_tree(process)
        self._record.unlink(missing_ok=True)

    def _running(self) -> subprocess.Popen[bytes]:
        popen = self._popen
        if popen is None or popen.poll() is not None:
            raise StackError(f"{self._name} does not run")
        return popen

    def _spawn(
        self,
        launched: Sequence[str],
        directory: Path,
        environment: Mapping[str, str] | None,
        held: Iterable[signal.Signals],
    ) -> subprocess.Popen[bytes]:
        with _private(self.log) as output, _holding(held):
            return subprocess.Popen(
                launched,
                cwd=directory,
                env=None if environment is None else {**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle: we stop our children in order
            )


def remember(record: Path, pid: int, directory: Path) -> None:
    """Write the record of a process whose command line names `directory`, for `end_recorded`."""
    told = {"pid": pid, "created": psutil.Process(pid).create_time(), "directory": str(directory)}
    write_private(record, json.dumps(told))


def _launched(command: Sequence[str], death_signal: signal.Signals, user: str | None) -> list[str]:
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    return [*launcher, str(os.getpid()), str(int(death_signal)), user or "-", *command]


@contextmanager
def _holding(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Hold signals back in what this thread starts: it inherits that, through every exec."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _private(log: Path) -> BinaryIO:
    """Open a log for appending, which nobody else may read."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _recorded(record: Path) -> psutil.Process | None:
    """The process that `record` tells of, if it still runs and really is that one."""
    try:
        told = json.loads(record.read_text())
        process = psutil.Process(told["pid"])
        same_age = abs(process.create_time() - told["created"]) < _SAME_PROCESS_WITHIN_S
        same_work = any(told["directory"] in argument for argument in process.cmdline())
    except (OSError, ValueError, KeyError, psutil.Error):  # no record, half a record, or no such process
        return None
    return process if same_age and same_work else None


def _kill_tree(process: psutil.Process) -> None:
    """SIGKILL a process and all below it, and wait until they are gone. Raises StackError when they won't go."""
    try:
        process.suspend()  # so that it starts no child while we look
        doomed = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in doomed:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    if not wait_until(lambda: all(_gone(each) for each in doomed), _KILL_TIMEOUT_S):
        raise StackError(f"process {process.pid} does not end, even when killed")


def _gone(process: psutil.Process) -> bool:
    """Return whether it has ended. A zombie has, and stays one where nothing reaps orphans."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
