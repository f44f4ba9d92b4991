"""Lists all that is in an image, as a CycloneDX SBOM: a Python environment, its interpreter, and Debian's packages.

    python sbom.py ENVIRONMENT PYPROJECT

It runs in the images' build (deploy/docker/Dockerfile). `cyclonedx-bom`, which is installed there, lists Python's
packages alone.
"""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packageurl import PackageURL

Component = dict[str, Any]


def complete(bom: dict[str, Any], status: str, release: Mapping[str, str], python: str) -> dict[str, Any]:
    """Return an SBOM with the interpreter of version `python`, the system, and the packages in dpkg's `status`."""
    return bom | {"components": [*bom["components"], *_system(release, python), *_packages(status, release)]}


def _system(release: Mapping[str, str], python: str) -> Iterator[Component]:
    name, version = release["ID"], release["VERSION_ID"]
    yield {"type": "operating-system", "bom-ref": f"os:{name}@{version}", "name": name, "version": version}
    cpe = f"cpe:2.3:a:python:python:{python}:*:*:*:*:*:*:*"
    yield {"type": "platform", "bom-ref": f"python@{python}", "name": "python", "version": python, "cpe": cpe}


def _packages(status: str, release: Mapping[str, str]) -> Iterator[Component]:
    for paragraph in status.strip().split("\n\n"):
        field = dict(re.findall(r"^([A-Za-z-]+): (.+)$", paragraph, re.MULTILINE))
        if not field["Status"].endswith(" installed"):
            continue
        where = {"arch": field["Architecture"], "distro": f"{release['ID']}-{release['VERSION_ID']}"}
        name, version = field["Package"], field["Version"]
        purl = PackageURL("deb", release["ID"], name, version, where).to_string()
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _environment(directory: str, pyproject: str) -> dict[str, Any]:
    """Return the SBOM of a Python environment, the same for the same packages whenever it is made."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    done = subprocess.run([*command, "--pyproject", pyproject, directory], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    environment = _environment(*sys.argv[1:])
    status = Path("/var/lib/dpkg/status").read_text()
    written = complete(environment, status, platform.freedesktop_os_release(), platform.python_version())
    json.dump(written, sys.stdout, indent=1)
