"""Where the contracts' files are, below the checkout, and how they are written."""

import json
from pathlib import Path
from typing import Any

from popfax_contracts.catalogue import MESSAGES
from popfax_contracts.message import Message

SCHEMAS = Path("contracts/schemas")
ASYNCAPI = Path("contracts/asyncapi")
EXAMPLES = Path("contracts/examples")
RELEASED = Path("contracts/released")
VERSION = Path("contracts/popfax_contracts/_version.py")

Json = Any
"""Whatever `json.loads` returns."""


def service_of(type_: str) -> str:
    """Return the service that a type is named after: `ledger` for `popfax.ledger.units-reserved.v1`."""
    return type_.split(".")[1]


def schema_path(type_: str) -> Path:
    """Return where a type's schema is, below `contracts/schemas` or a release's `schemas`."""
    return Path(service_of(type_)) / f"{type_}.json"


def as_text(document: Json) -> str:
    """Return a document's text as it is committed: equal documents have equal texts."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Json:
    """Read a JSON file."""
    return json.loads(path.read_text())


def models() -> list[type[Message]]:
    """Return every message's model, in the order of their types."""
    return [MESSAGES[type_] for type_ in sorted(MESSAGES)]
