"""What PostgreSQL was asked to do: its server writes down every statement with its parameters, in files of JSON lines.

`log_statement` writes a statement down when it begins, so that one that a fault keeps from its end is there, too. What
fails is written once more, with the error.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.chassis.process_names import ProcessName

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BYTES = re.compile(r"\\+x((?:[0-9a-f]{2})+)")
_AROUND = 100
"""How much is told before and after each id that is looked for, in characters of the parameters."""
_WINDOWS = 6
_STATEMENT = 140
_ENDS = ("COMMIT", "ROLLBACK")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that names what is looked for, an end of its transaction, or an error in it."""

    at: datetime
    session: str
    """Whose: a service and its replica, or what else the session calls itself."""
    text: str
    """Its transaction, the statement, and of its parameters what is around the ids."""


def settings(directory: Path) -> dict[str, str]:
    """Return PostgreSQL's settings by which it writes its statements into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)  # the server may run as another user than we do
    return {
        "logging_collector": "on",
        "log_destination": "jsonlog",
        "log_directory": str(directory),
        "log_filename": "%Y%m%d-%H%M%S",
        "log_rotation_size": "64MB",
        "log_statement": "all",
    }


def naming(subject: str, ids: Collection[str], directory: Path) -> Iterator[Statement]:
    """Yield the statements that name a subject or one of these ids, with how their transactions ended."""
    wanted = {subject, *ids}
    as_bytes = subject.encode().hex()
    open_: dict[str, str] = {}
    """The transaction of each session of which a statement was told, and which has not ended."""
    for path in sorted(directory.glob("*.json")):
        with path.open(errors="replace") as lines:
            for line in lines:
                names = subject in line or as_bytes in line or not wanted.isdisjoint(_UUID.findall(line))
                if not names and not any(end in line for end in (*_ENDS, '"ERROR"', '"FATAL"')):
                    continue
                try:
                    found = json.loads(line)
                except ValueError:
                    continue  # the server was killed while it wrote this
                session, transaction = found["session_id"], found.get("vxid", "")
                if names:
                    open_[session] = transaction
                elif open_.get(session) != transaction:
                    continue
                yield _told(found, wanted)
                if not names and _statement(found).startswith(_ENDS):
                    del open_[session]


def _told(found: dict[str, str], wanted: Collection[str]) -> Statement:
    name = found.get("application_name", "")
    process = ProcessName.read(name)
    session = f"{process.service}-{process.name}" if process else name or found.get("user", "postgres")
    shown = [f"[{found.get('vxid', '-')}]", _shortened(_statement(found), _STATEMENT)]
    detail = found.get("detail", "")
    if windows := around(wanted, _BYTES.sub(_decoded, detail)):
        shown.append(f"-- {windows}")
    if error := found["message"] if found["error_severity"] != "LOG" else "":
        shown.append(f"-- {found['error_severity']}: {error}")
    return Statement(
        datetime.strptime(found["timestamp"], "%Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC), session, " ".join(shown)
    )


def _statement(found: dict[str, str]) -> str:
    if found["error_severity"] != "LOG":
        return found.get("statement", "")
    return re.sub(r"^(?:statement|execute [^:]*): ", "", found["message"])


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _decoded(found: re.Match[str]) -> str:
    return bytes.fromhex(found[1]).decode(errors="replace")


def around(wanted: Collection[str], text: str) -> str:
    """Return, in one line, what a text has around each of the wanted, with an ellipsis for what is left out."""
    text = " ".join(text.split())
    places = [(found.start(), found.end()) for each in wanted for found in re.finditer(re.escape(each), text)]
    windows: list[tuple[int, int]] = []
    for first, last in sorted(places):
        begin, end = max(0, first - _AROUND), min(len(text), last + _AROUND)
        if windows and begin <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(end, windows[-1][1])
        else:
            windows.append((begin, end))
    shown = [
        ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "") for begin, end in windows[:_WINDOWS]
    ]
    return " ".join([*shown, f"(and {len(windows) - _WINDOWS} more)"] if len(windows) > _WINDOWS else shown)
