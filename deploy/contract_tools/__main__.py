"""The contracts' command line."""

import argparse
import sys
from pathlib import Path

from deploy.contract_tools import asyncapi, examples, releases, schemas
from deploy.contract_tools.layout import ASYNCAPI, SCHEMAS, VERSION
from deploy.paths import CHECKOUT


def generated(root: Path) -> dict[Path, str]:
    """Return the content of every generated file, by its path below the checkout."""
    version = releases.current(root)
    documents = asyncapi.files(version, examples.load(root))
    return {
        VERSION: f'"""The version of the contracts. Written by `make contracts`."""\n\n__version__ = "{version}"\n',
        **{SCHEMAS / path: text for path, text in schemas.files().items()},
        **{ASYNCAPI / path: text for path, text in documents.items()},
    }


def stale(root: Path) -> list[str]:
    """Say which generated files are missing, out of date, or about something that no longer exists."""
    wanted = generated(root)
    return [
        *(f"{path}: is stale: run `make contracts`" for path, text in wanted.items() if _text(root / path) != text),
        *(f"{path}: describes nothing: run `make contracts`" for path in sorted(_present(root) - wanted.keys())),
    ]


def generate(root: Path) -> int:
    """Write all generated files, remove those that describe nothing any more, and return the number of files."""
    wanted = generated(root)
    for path, text in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path in _present(root) - wanted.keys():
        (root / path).unlink()
    return len(wanted)


def problems(root: Path) -> list[str]:
    """Return everything that is wrong with the contracts' files."""
    return [*stale(root), *examples.problems(root), *releases.problems(root)]


def _present(root: Path) -> set[Path]:
    return {path.relative_to(root) for place in (SCHEMAS, ASYNCAPI) for path in (root / place).rglob("*.json")}


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.contract_tools", description="Schemas, documents, releases."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("generate", help="write the schemas and the AsyncAPI documents again (also without a command)")
    commands.add_parser("check", help="say what is stale, lacks an example, or breaks a released version")
    commands.add_parser("release", help="freeze today's contracts").add_argument("version")
    given = parser.parse_args()
    if given.command == "check":
        found = problems(CHECKOUT)
        print("\n".join(found) or "The contracts' files are as they should be.")
        return 1 if found else 0
    if given.command == "release":
        return _release(given.version)
    print(f"{generate(CHECKOUT)} files written: contracts/schemas, contracts/asyncapi")
    return 0


def _release(version: str) -> int:
    try:
        where = releases.release(CHECKOUT, version)
    except releases.ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    generate(CHECKOUT)
    print(f"{where.relative_to(CHECKOUT)} written; commit it, and never change it again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
