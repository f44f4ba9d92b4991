"""Parking by key: whatever fails, comes again or is retried, the messages of a key take effect in the order of the log.

Nothing is modelled but the partition and the operator: the way of a batch is `services/chassis/shell.py` itself, with
the inbox, the parked messages and their keys as `services/chassis/memory.py` keeps them; the handler is the ledger's.
(ADR 5, 30)
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from uuid import UUID

from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.topics import LEDGER_COMMANDS
from services.chassis.database import Outage
from services.chassis.memory import Contents
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import retry_requested
from services.ledger.consumers import LEDGER
from tests.simulation.bus import BusRecord
from tests.simulation.world import Fault, FaultyDatabase, VirtualClock, drive, exchanged
from tests.unit.given import id_of

LOG = ("a1", "b1", "a2", "a3")
"""The partition: two messages of each key follow a first one."""


class Bug(Exception):
    """What the handler fails with."""


@dataclass(frozen=True)
class State:
    """A service's database and its place in the partition."""

    contents: Contents
    position: int = 0
    committed: int = 0
    failing: frozenset[str] = frozenset()
    """The messages that the handler fails on, until that is mended."""
    faults: int = 0
    """How often the connection may still drop after a commit, so that nobody knows of it."""

    def handled(self, key: str) -> list[str]:
        """Return a key's messages that have had their effect, in that order."""
        answers = [out for out in self.contents.outbox if out.type == UnitsCredited.TYPE]
        names = [_NAMES[UUID(out.causation_id)] for out in answers]
        return [name for name in names if name.startswith(key)]


@dataclass(frozen=True)
class Parking:
    """The model: a database, which may have a mistake in it, and what the handler fails on at first."""

    database: Callable[[], FaultyDatabase] = FaultyDatabase
    failing: Sequence[str] = ("a1", "a2")
    faults: int = 1

    def initial(self) -> State:
        """Nothing was read."""
        return State(Contents(), failing=frozenset(self.failing), faults=self.faults)

    def key(self, state: State) -> Hashable:
        """All that the service keeps, and its place."""
        contents = state.contents
        parked = tuple((id_, row.parked.why, row.retry_requested) for id_, row in contents.parked.items())
        handled = tuple(tuple(state.handled(key)) for key in "ab")
        lines = frozenset(contents.blocked), frozenset(contents.retrying), parked
        place = state.position, state.committed, state.failing, state.faults
        return handled, frozenset(contents.inbox), lines, place

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """A batch arrives, a crash undoes what offsets do not cover, a bug is mended, an operator retries."""
        for end in range(state.position + 1, len(LOG) + 1):
            names = ", ".join(LOG[state.position : end])
            yield f"{names} arrive", self._delivered(state, end, None)
            if state.faults:
                fewer = replace(state, faults=state.faults - 1)
                yield (
                    f"{names} arrive, and the connection drops after the commit",
                    self._delivered(fewer, end, Fault.AFTER_COMMIT),
                )
        if state.committed < state.position:
            yield "offsets are committed", replace(state, committed=state.position)
            yield "the service crashes", replace(state, position=state.committed)
        for name in sorted(state.failing):
            yield f"{name} is mended", replace(state, failing=state.failing - {name})
        if state.contents.parked:
            yield "an operator has all retried", self._retried(state)

    def violation(self, state: State) -> str | None:
        """Each takes effect once, and after all that came before it on its key."""
        for key in "ab":
            handled = state.handled(key)
            expected = [name for name in LOG if name.startswith(key)]
            if handled != expected[: len(handled)]:
                return f"the messages of {key} took effect in the order {handled}"
        return None

    def ending(self, state: State) -> str | None:
        """Everything has taken effect in the end."""
        for key in "ab":
            if missing := {name for name in LOG if name.startswith(key)} - set(state.handled(key)):
                return f"{', '.join(sorted(missing))} never took effect"
        return "a key stays blocked" if state.contents.blocked else None

    def _delivered(self, state: State, end: int, fault: Fault | None) -> State:
        shell, database = self._shell(state)
        database.fault = fault
        try:
            drive(shell.process(RECORDS[state.position : end], FromKafka()))
        except Outage:
            end = state.position
        return replace(state, contents=database.contents, position=end)

    def _retried(self, state: State) -> State:
        shell, database = self._shell(state)
        drive(database.request_retry(list(database.contents.parked)))
        while drive(retry_requested(shell)):
            pass
        return replace(state, contents=database.contents)

    def _shell(self, state: State) -> tuple[Shell, FaultyDatabase]:
        """Return the service as it is in a state: nothing of it outlives a batch but its database."""
        database = self.database()
        database.contents = state.contents.copy()
        credits = LEDGER.handlers[CreditUnits]

        def credit(books: Any, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
            outcome = credits(books, message, moment)
            if _NAMES[UUID(message.sent_id)] in state.failing:
                raise Bug
            return outcome

        return Shell(exchanged(LEDGER, {CreditUnits: credit}), database, VirtualClock(Random(1))), database


def _record(offset: int, name: str) -> BusRecord:
    body = CreditUnits(credit_id=id_of(f"credit {name}"), account_id=id_of(name[0]), amount_units=1)
    headers = [("ce_id", str(id_of(name)).encode()), ("ce_type", body.TYPE.encode())]
    return BusRecord(LEDGER_COMMANDS.name, 0, offset, body.key().encode(), body.to_json(), headers)


RECORDS = [_record(offset, name) for offset, name in enumerate(LOG)]
_NAMES = {id_of(name): name for name in LOG}
