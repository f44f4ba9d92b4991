"""A process that hangs ends, and shows where each thread was; one that does not goes on."""

import subprocess
import sys

import pytest

PROCESS = """
import asyncio, ctypes
from services.chassis import watchdog

watchdog.HUNG_S, watchdog.EVERY_S = {hung_s}, 0.1

async def main():
    watching = asyncio.create_task(watchdog.watch(lambda: {alive}))
    await asyncio.sleep(0.5)
    {does}
    print("went on")

asyncio.run(main())
"""


def _run(alive: bool, does: str, hung_s: float = 2.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROCESS.format(alive=alive, does=does, hung_s=hung_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_that_is_alive_goes_on() -> None:
    ended = _run(True, "await asyncio.sleep(7)", hung_s=6.0)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize(
    ("alive", "does"),
    [
        pytest.param(False, "await asyncio.sleep(50)", id="what it does makes no progress"),
        pytest.param(True, "import time; time.sleep(50)", id="its event loop hangs"),
        pytest.param(True, "ctypes.PyDLL(None).sleep(50)", id="C code hangs with the interpreter's lock"),
    ],
)
def test_a_process_that_hangs_ends_and_shows_where(alive: bool, does: str) -> None:
    ended = _run(alive, does)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Timeout" in ended.stderr
    assert "Thread" in ended.stderr
