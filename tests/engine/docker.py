"""The Docker engine, as these tests call it: by its command line, which is what a person types."""

import json
import subprocess
from collections.abc import Iterable
from typing import Any

IMAGES = {
    "service": "popfax-groups",
    "operator": "popfax-groups-operator",
    "mailsink": "popfax-groups-mailsink",
}
"""The images' names, by their stages in the Dockerfile."""

CONFINED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")

_SHELLS = """
import os
known = {line.strip() for line in open("/etc/shells") if line.startswith("/")} | {"/bin/sh"}
print("\\n".join({os.path.realpath(each) for each in known if os.path.exists(each)}))
"""


def run(*command: str, timeout_s: float = 300.0) -> str:
    """Return what a command prints. Fails with what it printed if it ends badly."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def python(image: str, code: str, *arguments: str, options: Iterable[str] = CONFINED) -> str:
    """Run Python code in an image, by default in a container that may write nothing and reach nobody."""
    return run("docker", "run", "--rm", *options, image, "python", "-c", code, *arguments)


def inspect(name: str) -> dict[str, Any]:
    """Return what the engine knows about an image or a container."""
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", name))
    return found[0]


def shells(image: str) -> list[str]:
    """Return the files of an image's shells."""
    return python(image, _SHELLS).split()


def without_shells(image: str) -> list[str]:
    """Return options that put a file which is no program in the place of each shell."""
    return [f"--volume=/dev/null:{each}:ro" for each in shells(image)]
