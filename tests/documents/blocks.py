"""What is generated in the documents: one picture, and what stands between two markers.

<!-- generated: settings-shared (make docs) -->
…
<!-- end -->
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from popfax_contracts.topics import Principal
from tests.bench import sharding
from tests.bench.table import markdown
from tests.documents import alerts, answers, commands, doctor, licences, logs, metrics, picture, settings, topics

CHECKOUT = Path(__file__).resolve().parents[2]

BLOCKS: Mapping[str, Callable[[], str]] = {
    "alerts": alerts.table_of_alerts,
    "burns": alerts.table_of_burns,
    "objectives": alerts.table_of_objectives,
    "settings-shared": settings.shared,
    "settings-groups": settings.groups,
    "settings-provisioning": settings.provisioning,
    "settings-notifications": settings.notifications,
    "sharding": lambda: markdown(*sharding.grid()),
    "topics": topics.table_of_topics,
    "log-fields": logs.table_of_fields,
    "log-events": logs.table_of_events,
    "metrics": metrics.table_of_metrics,
    "metrics-waiting": metrics.table_of_waiting,
    "commands": commands.table_of_commands,
    "findings": doctor.table_of_findings,
    "copyleft": licences.table_of_copyleft,
    "licences": licences.table_of_licences,
    **{f"asked-of-{service}": partial(answers.asked_of, service) for service in Principal if service != "platform"},
    "malformed": answers.malformed,
}
"""A block's name, and the function that returns its text."""

PICTURE = Path("docs/images/architecture.svg")

_BLOCK = re.compile(r"(?<=<!-- generated: )([a-z-]+)( \(make docs\) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def documents(checkout: Path) -> list[Path]:
    """Return every document of the project, in a stable order."""
    return [checkout / "README.md", checkout / "CONTRIBUTING.md", *sorted((checkout / "docs").rglob("*.md"))]


def names(text: str) -> list[str]:
    """Return the names of the generated blocks in a document."""
    return [name for name, _ in _BLOCK.findall(text)]


def renewed(text: str) -> str:
    """Return a document with its generated blocks as the code has them today. Raises `KeyError` for an unknown one."""
    return _BLOCK.sub(lambda block: f"{block[1]}{block[2]}{BLOCKS[block[1]]()}\n", text)


def stale(checkout: Path) -> dict[Path, str]:
    """Return the documents, and the picture, that are not what would be written today, with what would."""
    wanted = {path: renewed(path.read_text()) for path in documents(checkout)} | {checkout / PICTURE: picture.svg()}
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}


def write(checkout: Path) -> list[Path]:
    """Write what is stale again, and return it."""
    found = stale(checkout)
    for path, text in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(found)
