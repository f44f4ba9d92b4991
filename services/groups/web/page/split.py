"""What is about more members than one command may name: cut into parts, each all or nothing, and followed as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

from popfax_contracts.groups import MAX_MEMBERS
from popfax_contracts.ids import derive_own
from services.groups.domain import CommandState
from services.groups.web import queries

MOST_PARTS = 1000
"""Nobody has a million members; an address that names more parts is nobody's."""

T = TypeVar("T")


def cut(members: Sequence[T]) -> list[Sequence[T]]:
    """Cut into as few parts as possible, of sizes as equal as possible."""
    ends = [0, *_ends(len(members))]
    return [members[begin:end] for begin, end in pairwise(ends)]


def _ends(members: int) -> list[int]:
    parts = -(-members // MAX_MEMBERS)
    return [members * number // parts for number in range(1, parts + 1)]


def ids_of(whole_id: UUID, parts: int) -> list[UUID]:
    """Return the ids of the parts' commands: sent again, the same form makes the same ones."""
    return [derive_own(whole_id, f"part/{number}") for number in range(1, parts + 1)]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far all parts have come, together."""

    type: str
    parts: int
    done: int
    refused: int
    members_done: int
    members_refused: int
    units: int
    """What the parts that are done have cost."""
    codes: tuple[str, ...]
    """Why parts were refused."""
    asked_at: datetime

    @property
    def ended(self) -> int:
        """Return how many parts have ended, one way or the other."""
        return self.done + self.refused

    @property
    def is_over(self) -> bool:
        """Return whether all parts have ended."""
        return self.ended == self.parts


def progress(ids: Sequence[UUID], by_id: Mapping[UUID, queries.Command], members: int) -> Progress | None:
    """Return how far parts have come; None unless every one of them was posted. `members` is how many they name."""
    if not ids or set(by_id) != set(ids) or members > len(ids) * MAX_MEMBERS:
        return None
    commands = [by_id[id_] for id_ in ids]
    sizes = [len(part) for part in cut(range(members))] if members else []
    sizes += [0] * (len(ids) - len(sizes))
    done = [i for i, each in enumerate(commands) if each.state is CommandState.DONE]
    refused = [i for i, each in enumerate(commands) if each.state is CommandState.REFUSED]
    return Progress(
        type=commands[0].type,
        parts=len(ids),
        done=len(done),
        refused=len(refused),
        members_done=sum(sizes[i] for i in done),
        members_refused=sum(sizes[i] for i in refused),
        units=sum((commands[i].result or {}).get("total_units") or 0 for i in done),
        codes=tuple(dict.fromkeys(commands[i].code or "" for i in refused)),
        asked_at=commands[0].asked_at,
    )
