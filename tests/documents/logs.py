"""The tables of the logs' fields and events: the former as they are documented, the latter as the code has them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.paths import CHECKOUT
from services.chassis.logs import FIELDS
from tests.documents.tables import table

_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
_OF_LOGGING = frozenset({"exc_info"})


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of code that logs."""

    module: str
    event: str
    level: str
    fields: tuple[str, ...]


def table_of_fields() -> str:
    """Return each field with its meaning."""
    return table(("field", "meaning"), [(f"`{name}`", meaning) for name, meaning in FIELDS.items()])


def table_of_events() -> str:
    """Return each event with its level and its fields."""
    found = sorted(logged(CHECKOUT / "services"), key=lambda line: (line.event, line.module))
    rows = {(f"`{e.event}`", e.level, ", ".join(f"`{field}`" for field in e.fields), f"`{e.module}`") for e in found}
    return table(("event", "level", "fields", "logger"), sorted(rows))


def logged(code: Path) -> Iterator[Logged]:
    """Yield every line that logs an event in the modules below a directory."""
    for path in sorted(code.rglob("*.py")):
        module = ".".join(path.relative_to(code.parent if code.name == "services" else code).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (found := _event(node)):
                level, event = found
                fields = tuple(each.arg for each in node.keywords if each.arg and each.arg not in _OF_LOGGING)
                yield Logged(module, event, level, fields)


def _event(call: ast.Call) -> tuple[str, str] | None:
    """Return the level and the name of what is logged by a call; None if it logs nothing."""
    assert isinstance(call.func, ast.Attribute)
    level, arguments = call.func.attr, call.args
    if level == "log" and len(arguments) == 2:
        level, arguments = "debug, warning, error", arguments[1:]
    elif level not in _LEVELS:
        return None
    if not arguments or not isinstance(arguments[0], ast.Constant) or not isinstance(arguments[0].value, str):
        return None
    return level, arguments[0].value
