"""Released versions of the contracts: promises that today's contracts must not break.

`contracts/released/<version>/schemas` has a version's schemas, and `corpus` the records that it wrote, with their
values as text. `exceptions.json` names the types whose promise was withdrawn, and why: those are not compared.

A major version is a fresh start: today's contracts are compared only with the releases of `MAJOR`.
"""

from collections.abc import Mapping
from pathlib import Path

from deploy.contract_tools import compatibility, examples, schemas
from deploy.contract_tools.examples import Example
from deploy.contract_tools.layout import RELEASED, Json, as_text, read, schema_path
from popfax_contracts.catalogue import MESSAGES

Version = tuple[int, int, int]

MAJOR = 2
"""The major version under development."""

_FIRST: Version = (MAJOR, 0, 0)


class ReleaseError(Exception):
    """A version can't be released. The message says why."""


def versions(root: Path) -> list[Version]:
    """Return the released versions that today's contracts must be compatible with: those of `MAJOR`, oldest first."""
    released = (parse(path.name) for path in (root / RELEASED).glob("*") if path.is_dir())
    return sorted(version for version in released if version[0] == MAJOR)


def parse(text: str) -> Version:
    """Parse `2.0.0`. Raises ReleaseError for anything else."""
    parts = text.split(".")
    if len(parts) != len(_FIRST) or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ReleaseError(f"{text!r} is no version: say three numbers, such as 2.1.0")
    major, minor, patch = map(int, parts)
    return major, minor, patch


def written(version: Version) -> str:
    """Return a version as text: `2.0.0`."""
    return ".".join(map(str, version))


def directory(root: Path, version: Version) -> Path:
    """Return the directory of a version."""
    return root / RELEASED / written(version)


def schemas_of(root: Path, version: Version) -> dict[str, Json]:
    """Return the schemas of a version by their types."""
    return {path.stem: read(path) for path in sorted((directory(root, version) / "schemas").glob("*/*.json"))}


def corpus_of(root: Path, version: Version) -> list[Example]:
    """Return the records of a version, in the order of their types and names."""
    return [_record(path) for path in sorted((directory(root, version) / "corpus").glob("*/*.json"))]


def exceptions_of(root: Path, version: Version) -> dict[str, str]:
    """Return the types of a version that are not compared, and why."""
    path = directory(root, version) / "exceptions.json"
    return dict(read(path)) if path.exists() else {}


def problems(root: Path, today: Mapping[str, Json] | None = None) -> list[str]:
    """Say how today's contracts break any released version, not only the newest."""
    today = today if today is not None else _today()
    return [
        f"{type_}: breaks {written(version)}: {problem}"
        for version in versions(root)
        for type_, released in schemas_of(root, version).items()
        if type_ not in exceptions_of(root, version)
        for problem in _broken(released, today.get(type_))
    ]


def current(root: Path) -> str:
    """Return the version of today's contracts: the newest release, or `-dev` of the next one if they differ from it."""
    newest = max(versions(root), default=None)
    if newest is None:
        return f"{written(_FIRST)}-dev"
    major, minor, _ = newest
    return written(newest) if schemas_of(root, newest) == _today() else f"{major}.{minor + 1}.0-dev"


def release(root: Path, text: str) -> Path:
    """Freeze today's schemas and examples as a version; return its directory. Raises ReleaseError if it can't be."""
    version = parse(text)
    if version[0] != MAJOR:
        raise ReleaseError(f"{text} is no version {MAJOR}: today's contracts are compared with those alone")
    if version <= max(versions(root), default=(0, 0, 0)):
        raise ReleaseError(f"{text} is not newer than {written(max(versions(root)))}")
    if found := [*problems(root), *examples.problems(root)]:
        raise ReleaseError("\n".join(found))
    for type_, schema in _today().items():
        _write(directory(root, version) / "schemas" / schema_path(type_), schema)
    for example in examples.load(root):
        _write(directory(root, version) / "corpus" / example.type / f"{example.name}.json", _as_released(example))
    return directory(root, version)


def _today() -> dict[str, Json]:
    return {type_: schemas.schema_of(MESSAGES[type_]) for type_ in sorted(MESSAGES)}


def _broken(released: Json, today: Json | None) -> list[str]:
    return ["the type is gone"] if today is None else compatibility.breaks(released, today)


def _record(path: Path) -> Example:
    document = read(path)
    value = document["value"]
    return Example(
        path.parent.name,
        path.stem,
        document["headers"],
        document["key"],
        None if value is None else value.encode(),
    )


def _as_released(example: Example) -> Json:
    value = None if example.value is None else example.value.decode()
    return {"headers": example.headers, "key": example.key, "value": value}


def _write(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_text(document))
