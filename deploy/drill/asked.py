"""What a drill has asked for, and what its answers say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from deploy.operator.cli.wire import Seen
from popfax_contracts.codes import GroupsCode
from popfax_contracts.message import Command, Refusal


@dataclass(slots=True)
class Asked:
    """A command, when it was sent, and what answered it."""

    id: str
    command: Command
    at: datetime
    answers: dict[str, Seen] = field(default_factory=dict)
    """Its outcomes, by their ids: more than one is one too many."""

    @property
    def answered_at(self) -> datetime | None:
        """When its first outcome was published, by the broker's clock."""
        return min((seen.at for seen in self.answers.values()), default=None)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the commands of a span of time met."""

    commands: int
    longest_gap_s: float
    """The longest time without any answer, in seconds."""
    slowest_answer_s: float


def figures(asked: Sequence[Asked], since: datetime, until: datetime) -> Figures:
    """Return what the commands that were sent in a span of time met."""
    sent = [each for each in asked if since <= each.at < until]
    answers = sorted(at for each in asked if (at := each.answered_at) is not None and since <= at < until)
    gaps = [later - earlier for earlier, later in pairwise([since, *answers, until])] if sent else []
    waits = [at - each.at for each in sent if (at := each.answered_at) is not None]
    return Figures(len(sent), _longest(gaps), _longest(waits))


def unanswered(asked: Sequence[Asked]) -> list[Asked]:
    """Return what has no outcome yet."""
    return [each for each in asked if not each.answers]


def answered_wrongly(asked: Sequence[Asked]) -> list[str]:
    """Name what has several outcomes, or was refused though nothing is wrong with it."""
    return [
        f"{type(each.command).__name__} {each.id} was answered by {' and '.join(map(_said, each.answers.values()))}"
        for each in asked
        if len(each.answers) > 1 or any(map(_is_wrong, each.answers.values()))
    ]


def _is_wrong(seen: Seen) -> bool:
    """Return whether an outcome is a refusal, unless it is for a price that was changed a moment ago."""
    return isinstance(seen.body, Refusal) and seen.body.code != GroupsCode.PRICE_CHANGED


def _said(seen: Seen) -> str:
    return f"{seen.short_name} ({seen.body.code})" if isinstance(seen.body, Refusal) else seen.short_name


def _longest(spans: Sequence[timedelta]) -> float:
    return max((span.total_seconds() for span in spans), default=0.0)
