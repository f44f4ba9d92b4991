"""The table of third-party licences: what ships, under which terms, and what is wrong with those.

What ships is what the requirements of the images lock; what only a developer installs is not listed.
"""

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker

from tests.documents.tables import table

CHECKOUT = Path(__file__).resolve().parents[2]

NOT_SHIPPED = {"dev", "sbom"}
"""Of the files in `requirements/`, those that no image has: the build's list of packages is written and left behind."""

PERMISSIVE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0", "Unlicense"}
)
"""SPDX ids of licences that ask for no more than a notice."""

COPYLEFT: Mapping[str, tuple[str, str]] = {
    "certifi": (
        "MPL-2.0",
        "copyleft file by file: the files, a list of authorities and the lines that find it, are unmodified, and the"
        " wheel is their source",
    ),
    "psycopg": (
        "LGPL-3.0-only",
        "imported as an unmodified package, from its own wheel, with its licence in it: whoever has the image can"
        " replace it by another version, which is what the LGPL asks of a program that uses a library",
    ),
    "psycopg-binary": (
        "LGPL-3.0-only",
        "psycopg's compiled half, loaded at run time: as above. Its wheel brings libpq, OpenSSL, Kerberos and OpenLDAP,"
        " and under the LGPL libkeyutils and libcrypt, each a shared library of its own that can be replaced",
    ),
    "publicsuffixlist": (
        "MPL-2.0",
        "copyleft file by file: the files are unmodified, and the wheel is their source",
    ),
}
"""Packages under a weak copyleft, with the licence as it was read, and why the way in which we use them meets it."""

_SPDX: Mapping[str, str] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""What older packages write instead of an SPDX id."""

_READ: Mapping[str, str] = {"jinja2": "BSD-3-Clause"}
"""Licences that were read in the package itself, because its metadata says too little."""

_IMAGE = {"sys_platform": "linux", "platform_python_implementation": "CPython", "implementation_name": "cpython",
          "python_full_version": "3.11.0", "python_version": "3.11", "platform_machine": "x86_64"}  # fmt: skip
_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ ;\\]+)(?: ; ([^\\]+?))? \\$", re.MULTILINE)


def table_of_licences() -> str:
    """Return every package that ships, with its licence and the requirements that install it."""
    shipped = shipped_packages(CHECKOUT / "requirements")
    rows = [(f"`{name}`", licence_of(name), ", ".join(files)) for name, files in sorted(shipped.items())]
    return table(("package", "licence (SPDX)", "in the requirements of"), rows)


def table_of_copyleft() -> str:
    """Return the shipped packages under a weak copyleft, with the reason why that is fine."""
    shipped = shipped_packages(CHECKOUT / "requirements")
    rows = [(f"`{name}`", licence, why) for name, (licence, why) in COPYLEFT.items() if name in shipped]
    return table(("package", "licence", "why it may ship"), rows)


def shipped_packages(requirements: Path) -> dict[str, list[str]]:
    """Return each package that an image installs, with the names of the requirements files that lock it."""
    found: dict[str, list[str]] = {}
    for path in sorted(requirements.glob("*.txt")):
        if path.stem not in NOT_SHIPPED:
            for name in locked(path.read_text()):
                found.setdefault(name, []).append(path.stem)
    return found


def locked(text: str) -> set[str]:
    """Return the packages that a lock file installs in an image: on Linux, with its Python."""
    return {name for name, _, marker in _PIN.findall(text) if not marker or Marker(marker).evaluate(_IMAGE)}


def licence_of(name: str) -> str:
    """Return an installed package's licence as an SPDX expression, or what its metadata say if that is none."""
    if name in _READ:
        return _READ[name]
    found = metadata.metadata(name)
    stated = next((found[field] for field in ("License-Expression", "License") if field in found), None)
    classified = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier") or () if c.startswith("License ::")]
    text = stated or " AND ".join(classified) or "unknown"
    return _SPDX.get(text, text)


def faults(packages: Iterable[str]) -> list[str]:
    """Return what is wrong with shipping these packages: one line for each."""
    return [f"{name}: {licence}" for name in sorted(packages) if not allowed(name, licence := licence_of(name))]


def allowed(name: str, licence: str) -> bool:
    """Say whether a package may ship under an SPDX expression: it is permissive, or there is a reason for this one."""
    if COPYLEFT.get(name, ("",))[0] == licence:
        return True
    choices = [set(choice.split(" AND ")) for choice in licence.replace("(", "").replace(")", "").split(" OR ")]
    return any(choice <= PERMISSIVE for choice in choices)
