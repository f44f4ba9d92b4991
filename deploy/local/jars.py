"""Kafka's jars: fetched once from Maven Central, and checked against a committed list before every use.

`kafka-jars.sha256` pins each jar by its Maven coordinate and its SHA-256. jgo works out which jars Kafka needs when
the list is made (`--update-lock`), and fetches the listed ones when they are missing. jgo itself enforces no hash,
which is why every jar is hashed here.

    python -m deploy.local.jars                  fetch what is missing, check all
    python -m deploy.local.jars --update-lock    work the list out again
"""

import argparse
import hashlib
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jgo
from jgo.maven import MavenContext

from deploy.local.errors import StackError
from deploy.local.paths import JARS
from deploy.paths import only_one_fetches

ENDPOINT = "org.apache.kafka:kafka_2.13:4.3.0+org.slf4j:slf4j-simple:2.0.17"
"""The requested artifacts. Everything else follows from them, and is listed in the lock."""

LOCK = Path(__file__).with_name("kafka-jars.sha256")

_LOCK_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<group>[^:\s]+):(?P<artifact>[^:\s]+):(?P<version>[^:\s]+)")
_DOWNLOADS_AT_ONCE = 6
_DOWNLOAD_TIMEOUT_S = 60
_DOWNLOAD_ATTEMPTS = 3

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar: its Maven coordinate and the SHA-256 (hexadecimal) that it must have."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the jar directory."""
        return f"{self.artifact}-{self.version}.jar"


def ensure(directory: Path = JARS, progress: Progress = lambda _: None, lock: Path = LOCK) -> None:
    """Make `directory` hold exactly the jars of `lock`, fetching what is missing.

    No network is used when all are there. Raises StackError, naming the jar, when one is wrong, can't be fetched, or
    is not on the list.
    """
    jars = read_lock(lock)
    if _missing(jars, directory):
        with only_one_fetches(directory):
            fetch(_missing(jars, directory), directory, progress)  # asked again: another may have fetched them
    verify(directory, jars)


def verify(directory: Path, jars: list[Jar]) -> None:
    """Raise StackError unless `directory` holds exactly these jars with exactly these hashes."""
    expected = {jar.name: jar.sha256 for jar in jars}
    present = {path.name for path in directory.glob("*")}
    if missing := expected.keys() - present:
        raise StackError(f"Kafka's jar {min(missing)} is missing: run `make setup`")
    if unlisted := present - expected.keys():
        raise StackError(f"{min(unlisted)} is not one of Kafka's listed jars: delete it from {directory}")
    for name, sha256 in expected.items():
        if _sha256(directory / name) != sha256:
            raise StackError(f"Kafka's jar {name} does not have its listed SHA-256: delete it and run `make setup`")


def read_lock(lock: Path = LOCK) -> list[Jar]:
    """The jars that `lock` lists. Raises StackError on a line that is none, or when it lists nothing."""
    jars = [_parse(line, lock) for line in lock.read_text().splitlines() if not line.startswith("#")]
    if not jars:
        raise StackError(f"{lock.name} lists no jar")
    return jars


def update_lock(lock: Path = LOCK) -> list[Jar]:
    """Work out with jgo which jars ENDPOINT needs, hash them, and write the list. Needs the network."""
    with tempfile.TemporaryDirectory() as cache:
        context = MavenContext(repo_cache=Path(cache), timeout=_DOWNLOAD_TIMEOUT_S)
        jars = [
            _hashed(context, found.groupId, found.artifactId, found.version)
            for found in sorted(jgo.resolve(ENDPOINT), key=lambda artifact: (artifact.groupId, artifact.artifactId))
        ]
    lines = [f"{jar.sha256}  {jar.group}:{jar.artifact}:{jar.version}" for jar in jars]
    lock.write_text("# Made by `python -m deploy.local.jars --update-lock`.\n" + "\n".join(lines) + "\n")
    return jars


def _parse(line: str, lock: Path) -> Jar:
    match = _LOCK_LINE.fullmatch(line)
    if match is None:
        raise StackError(f"{lock.name} has a line that lists no jar: {line!r}")
    return Jar(match["group"], match["artifact"], match["version"], match["sha256"])


def _missing(jars: list[Jar], directory: Path) -> list[Jar]:
    return [jar for jar in jars if not (directory / jar.name).exists()]


def fetch(jars: list[Jar], directory: Path, progress: Progress) -> None:
    """Fetch jars into `directory`, several at a time. Raises StackError, and keeps none that is not as listed."""
    directory.mkdir(parents=True, exist_ok=True)
    # The temporary Maven cache lies beside the jars, so that a checked jar can be renamed into place.
    with (
        tempfile.TemporaryDirectory(dir=directory.parent, prefix="fetch-") as cache,
        ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool,
    ):
        context = MavenContext(repo_cache=Path(cache), timeout=_DOWNLOAD_TIMEOUT_S)
        downloads = [pool.submit(_fetch, context, jar, directory) for jar in jars]
        try:
            for done, download in enumerate(as_completed(downloads), start=1):
                progress(f"{done}/{len(jars)} {download.result().name}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _hashed(context: MavenContext, group: str, artifact: str, version: str) -> Jar:
    return Jar(group, artifact, version, _sha256(_download(context, group, artifact, version)))


def _download(context: MavenContext, group: str, artifact: str, version: str) -> Path:
    """Have jgo fetch one jar into the context's cache. Raises StackError after a few attempts."""
    for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
        try:
            return context.project(group, artifact).at_version(version).artifact().resolve()
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
            if attempt == _DOWNLOAD_ATTEMPTS:
                raise StackError(f"could not fetch {artifact}-{version}.jar from Maven Central: {error}") from error
    raise AssertionError("unreachable")


def _fetch(context: MavenContext, jar: Jar, directory: Path) -> Jar:
    """Fetch one jar and move it into `directory` if it has its hash. Raises StackError."""
    fetched = _download(context, jar.group, jar.artifact, jar.version)
    if _sha256(fetched) != jar.sha256:
        raise StackError(f"Maven Central's {jar.name} does not have its listed SHA-256: it was not kept")
    fetched.replace(directory / jar.name)
    return jar


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.jars", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update-lock", action="store_true", help="work out again which jars Kafka needs")
    try:
        if parser.parse_args().update_lock:
            print(f"{LOCK.name}: {len(update_lock())} jars")
        else:
            ensure(progress=print)
            print("Kafka's jars are complete and as listed.")
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
