"""Addresses that somebody pastes: a list or a CSV, one person a line, in the ways in which programs write them.

`Anne Martin <anne@b.example>`, `Anne;Martin;anne@b.example`, the same with tabs or commas, an address alone, or several
in one line as a mail program has them. A first line that names the columns says in which order they are.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from popfax_contracts.fields import Email

MOST = 100
"""How many people one list may have."""

_LONGEST_NAME = 200
"""What is longer is no name: `fields.Name` looks at no more."""


class Verdict(StrEnum):
    """What becomes of a line when the list is sent."""

    READY = "ready"
    """It is sent: whether anybody has the address is asked then, and counts against the day's quota."""
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    """A line above it has the same address."""
    ONESELF = "oneself"
    MEMBER = "member"
    INVITED = "invited"
    """An invitation waits for an answer already."""
    OVER_QUOTA = "over_quota"
    """The owner may not ask about as many addresses today."""


@dataclass(frozen=True, slots=True)
class Person:
    """A line as it was read: the address in its canonical form, or as it was typed if it is none."""

    email: str
    first_name: str = ""
    last_name: str = ""
    is_address: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """A line, and what becomes of it."""

    person: Person
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Pasted:
    """What was pasted."""

    people: tuple[Person, ...]
    has_more: bool
    """Whether there were more than `MOST`, which are left out."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the owner can see anyway, by canonical address, and how many addresses they may still ask about today."""

    own: str | None
    members: Collection[str]
    invited: Collection[str]
    quota_left: int


def read(text: str) -> Pasted:
    """Read what was pasted."""
    people: list[Person] = []
    for person in _people(text.removeprefix("\ufeff")):
        if len(people) == MOST:
            return Pasted(tuple(people), has_more=True)
        people.append(person)
    return Pasted(tuple(people), has_more=False)


def written(people: Iterable[Person]) -> str:
    """Return text that reads as the same people."""
    rows = [_WRITTEN, *((each.first_name, each.last_name, each.email) for each in people)]
    return "\n".join("\t".join(row) for row in rows)


def judge(people: Iterable[Person], known: Known) -> Sequence[Judged]:
    """Say what becomes of each line: the first reason why one is not sent, or that it is."""
    seen: set[str] = set()
    left = known.quota_left
    judged = []
    for person in people:
        verdict = _verdict(person, known, seen)
        if verdict is Verdict.READY:
            verdict = Verdict.READY if left > 0 else Verdict.OVER_QUOTA
            left -= 1
        seen.add(person.email)
        judged.append(Judged(person, verdict))
    return judged


def _verdict(person: Person, known: Known, seen: Collection[str]) -> Verdict:
    reasons = (
        (Verdict.INVALID, not person.is_address),
        (Verdict.DUPLICATE, person.email in seen),
        (Verdict.ONESELF, person.email == known.own),
        (Verdict.MEMBER, person.email in known.members),
        (Verdict.INVITED, person.email in known.invited),
    )
    return next((verdict for verdict, holds in reasons if holds), Verdict.READY)


# --- one line ---------------------------------------------------------------------------------------------------------

_EMAIL: TypeAdapter[str] = TypeAdapter(Email)
_IN_ANGLES = re.compile(r"(?P<name>[^<>]*)<(?P<email>[^<>]*)>\s*")
_BETWEEN = re.compile(r"""((?:[^,;\t"]|"[^"]*"?)+)""")
"""What stands between commas, semicolons and tabs; not those in quotation marks."""

_COLUMNS = {
    "email": ("email", "e-mail", "mail", "courriel", "adresse", "adresse e-mail", "adresse email", "e-mail address"),
    "first_name": ("first name", "first_name", "firstname", "given name", "prénom", "prenom"),
    "last_name": ("last name", "last_name", "lastname", "surname", "family name", "nom", "nom de famille"),
}
_COLUMN_OF = {word: column for column, words in _COLUMNS.items() for word in words}
_WRITTEN = ("first_name", "last_name", "email")


def _people(text: str) -> Iterator[Person]:
    columns: Sequence[str] | None = None
    is_first = True
    for line in text.splitlines():
        if not line.strip(" \t\u00a0,;"):
            continue
        if is_first and (columns := _heading(line)) is not None:
            is_first = False
            continue
        is_first = False
        if columns is not None:
            yield _from_columns(columns, _cells(line))
        elif line.count("@") > 1:
            yield from (_person(each) for each in _BETWEEN.findall(line) if each.strip())
        else:
            yield _person(line)


def _heading(line: str) -> Sequence[str] | None:
    """Return the columns that a first line names, empty for those that we have no use for; None if it names none."""
    columns = [_COLUMN_OF.get(cell.lower(), "") for cell in _cells(line)]
    return columns if "@" not in line and "email" in columns else None


def _from_columns(columns: Sequence[str], cells: Sequence[str]) -> Person:
    found = {column: cell for column, cell in zip(columns, cells, strict=False) if column}
    return _made(found.get("email", ""), found.get("first_name", ""), found.get("last_name", ""))


def _person(line: str) -> Person:
    if (angles := _IN_ANGLES.fullmatch(line.strip(" \t,;"))) is not None:
        return _made(angles["email"], *_names(angles["name"]))
    cells = _cells(line) if re.search("[,;\t]", line) else line.split()
    email = next((cell for cell in cells if "@" in cell), None)
    if email is None:
        return _made(line)
    names = [cell for cell in cells if cell and cell != email]
    return _made(email, *(names if len(names) == 2 else _names(" ".join(names))))


def _cells(line: str) -> list[str]:
    delimiter = next((each for each in "\t;," if each in line), ",")
    (cells,) = csv.reader([line.replace("\0", "")], delimiter=delimiter, skipinitialspace=True)
    return [" ".join(cell.split()) for cell in cells]


def _names(name: str) -> tuple[str, str]:
    """Return first and last name: `Anne Martin` and, as address books have it, `"Martin, Anne"`."""
    plain = " ".join(name.strip().strip("\"'").split())
    last, comma, first = plain.partition(",")
    if comma:
        return first.strip(), last.strip()
    first, _, last = plain.partition(" ")
    return first, last


def _made(email: str, first_name: str = "", last_name: str = "") -> Person:
    typed = email.strip().strip("\"'<>").removeprefix("mailto:")
    person = Person(typed[:254], _name(first_name), _name(last_name))
    try:
        return replace(person, email=_EMAIL.validate_python(typed))
    except ValidationError:
        return replace(person, is_address=False)


def _name(cell: str) -> str:
    return cell.replace('"', "")[:_LONGEST_NAME].strip()
