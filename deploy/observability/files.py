"""The generated files: `prometheus/rules.yaml`, and one dashboard per file in `grafana/`."""

from collections.abc import Mapping
from pathlib import Path

from deploy.observability import dashboards
from deploy.observability.alerts import ALERTS, OBJECTIVES
from deploy.observability.rules import as_yaml, groups

HERE = Path(__file__).resolve().parent

RULES = Path("prometheus") / "rules.yaml"
DASHBOARDS = Path("grafana")

_HEAD = "# Generated from alerts.py by `python -m deploy.observability`.\n"


def contents() -> Mapping[Path, str]:
    """Return what every generated file must contain, by its path below this directory."""
    rules = {RULES: _HEAD + as_yaml({"groups": groups(ALERTS, OBJECTIVES)})}
    return rules | {DASHBOARDS / f"{name}.json": text for name, text in dashboards.as_json().items()}


def stale(directory: Path = HERE) -> list[Path]:
    """Return the files that are not what they must be: changed, missing, or left over."""
    wanted = contents()
    there = {path.relative_to(directory) for path in (directory / DASHBOARDS).glob("*.json")}
    changed = {
        path
        for path, text in wanted.items()
        if not (directory / path).exists() or (directory / path).read_text() != text
    }
    return sorted(changed | (there - wanted.keys()))


def write(directory: Path = HERE) -> list[Path]:
    """Write what is stale again, and return it."""
    wanted, found = contents(), stale(directory)
    for path in found:
        target = directory / path
        if path in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(wanted[path])
        else:
            target.unlink()
    return found
