"""The relay's floor and its two fences: `services/chassis/relay.py` (ADR 4, 27), as small as it can be.

Writers take a number of their service's transactions, then numbers of the outbox, and commit in any order; those of one
key one after the other, because they lock its row. Two replicas' relays lead in turn. A leader asks how far everything
is settled, reads above its floor, publishes row by row, and deletes; at any moment it may lose the lock, and go on
without knowing, for as long as it likes.
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple


class Mistake(Enum):
    """What could be wrong with it, and must be found."""

    FLOOR_FOLLOWS_WHAT_WAS_READ = auto()
    """The floor moves to the last number that was read, whoever may still be writing below it."""
    FLOOR_MOVES_AT_ONCE = auto()
    """The floor moves while the last transaction that had begun when its number was seen is still open."""
    NO_EPOCH = auto()
    """The broker takes what any producer sends: the lock is the only fence. (As it was until ADR 27.)"""
    READS_BEFORE_IT_FENCES = auto()
    """A leader reads, and starts its producer only then."""
    DELETES_BEFORE_IT_IS_ACKNOWLEDGED = auto()
    """Rows are deleted when they are read."""
    KEYS_ARE_NOT_LOCKED = auto()
    """Two transactions write rows of one key at once."""


class Step(Enum):
    """Where a relay is in its round."""

    IDLE = auto()
    ASKS = auto()
    READS = auto()
    FENCES = auto()
    """Only by mistake: its producer is started when it has read."""
    PUBLISHES = auto()
    DELETES = auto()


class Writer(NamedTuple):
    """A transaction that writes one row: its number once it has begun, the row's once that is taken."""

    key: str
    xid: int = 0
    seq: int = 0
    ended: bool = False
    committed: bool = False


class Leader(NamedTuple):
    """A relay: what it knows, and what it has in hand."""

    step: Step = Step.IDLE
    epoch: int = 0
    floor: int = 0
    settled: int = 0
    last: int = 0
    mark: tuple[int, int] | None = None
    hand: tuple[int, ...] = ()
    sent: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A service's outbox, its relays, and the topic."""

    writers: tuple[Writer, ...]
    relays: tuple[Leader, ...]
    next_xid: int = 1
    next_seq: int = 1
    deleted: frozenset[int] = frozenset()
    holder: int | None = None
    epochs: int = 0
    log: tuple[tuple[int, int], ...] = ()
    """What the broker has appended: the number of the row, and the producer's epoch."""

    def unsent(self) -> list[int]:
        """Return the committed rows that are still there, by number."""
        return sorted(w.seq for w in self.writers if w.committed and w.seq not in self.deleted)

    def key_of(self, seq: int) -> str:
        """Return the key of a row."""
        return next(writer.key for writer in self.writers if writer.seq == seq)

    def partition(self, key: str) -> list[tuple[int, int]]:
        """Return what was appended of a key; each has a partition of its own."""
        return [each for each in self.log if self.key_of(each[0]) == key]

    @property
    def keys(self) -> list[str]:
        """All keys."""
        return sorted({writer.key for writer in self.writers})

    def oldest(self) -> int:
        """Return the number below which every transaction has ended (`pg_snapshot_xmin`)."""
        return min((w.xid for w in self.writers if w.xid and not w.ended), default=self.next_xid)


@dataclass(frozen=True, slots=True)
class Relay:
    """The model, with or without a mistake."""

    keys: Sequence[str]
    """Of each transaction the key that it writes a row of: those of one key wait for each other."""
    relays: int
    leads: int
    """How often a relay may begin to lead, all together."""
    mistakes: Collection[Mistake] = ()

    def initial(self) -> State:
        """Nothing was written, and nobody leads."""
        return State(tuple(map(Writer, self.keys)), (Leader(),) * self.relays)

    def key(self, state: State) -> Hashable:
        """Return all that counts: of a topic not how it came to be, but what was published, its end and its epoch."""
        ends = []
        for key in state.keys:
            rows = state.partition(key)
            ends.append((frozenset(seq for seq, _ in rows), rows[-1:], max((epoch for _, epoch in rows), default=0)))
        return replace(state, log=()), tuple((rows, tuple(last), epoch) for rows, last, epoch in ends)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """What writers and relays may do, and the loss of the lock."""
        for number in range(len(self.keys)):
            yield from self._writes(state, number)
        for number in range(self.relays):
            yield from self._relays(state, number)
        if state.holder is not None:
            yield self._loses(state, state.holder)

    def violation(self, state: State) -> str | None:
        """What must hold at every moment."""
        if state.holder is not None:
            leader = state.relays[state.holder]
            if lost := [seq for seq in state.unsent() if seq <= leader.floor and seq not in leader.hand]:
                return f"row {lost[0]} is below the floor, and nobody will read it"
        appended = {seq for seq, _ in state.log}
        if gone := state.deleted - appended:
            return f"row {min(gone)} was deleted and never published"
        for key in state.keys:
            first = list(dict.fromkeys(seq for seq, _ in state.partition(key)))
            if first != sorted(first) or self._skipped(state, key, first):
                return f"the rows of {key} were published in the order {first}"
        return None

    def ending(self, state: State) -> str | None:
        """What must hold once everything has come to rest: what compaction keeps of each key is its newest row."""
        if left := state.unsent():
            return f"row {left[0]} is never published" if state.epochs < self.leads else None
        for key in state.keys:
            rows = [seq for seq, _ in state.partition(key)]
            if rows and rows[-1] != max(rows):
                return f"the last record of {key} is row {rows[-1]}, an old one: the rows are {rows}"
        return None

    @staticmethod
    def _skipped(state: State, key: str, published: list[int]) -> bool:
        """Return whether a row was published before one of the same key that was committed earlier."""
        known = [w for w in state.writers if w.key == key and w.committed]
        return any(w.seq < max(published, default=0) and w.seq not in published for w in known)

    # --- the writers ---

    def _writes(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        writer = state.writers[number]
        if writer.ended:
            return
        if not writer.xid:
            begun = writer._replace(xid=state.next_xid)
            yield f"writer {number} begins", _wrote(state, number, begun, next_xid=state.next_xid + 1)
        elif not writer.seq:
            if Mistake.KEYS_ARE_NOT_LOCKED in self.mistakes or not _is_locked(state, writer.key):
                taken = writer._replace(seq=state.next_seq)
                told = f"writer {number} takes row {taken.seq} of key {writer.key}"
                yield told, _wrote(state, number, taken, next_seq=state.next_seq + 1)
        else:
            yield f"writer {number} commits", _wrote(state, number, writer._replace(ended=True, committed=True))

    # --- the relays ---

    @staticmethod
    def _loses(state: State, number: int) -> tuple[str, State]:
        """Lose the lock: the next statement fails. Only what it has in hand already can still go anywhere."""
        relay = state.relays[number]
        if relay.step in (Step.ASKS, Step.READS):
            return f"relay {number} loses the lock", _led(state, number, Leader(), holder=None)
        return f"relay {number} loses the lock, and does not know", replace(state, holder=None)

    def _relays(self, state: State, number: int) -> Iterator[tuple[str, State]]:
        relay, who = state.relays[number], f"relay {number}"
        late = Mistake.READS_BEFORE_IT_FENCES in self.mistakes
        if relay.step is Step.IDLE:
            if state.holder is None and state.epochs < self.leads:
                epoch = state.epochs + 1
                leads = Leader(Step.ASKS, 0 if late else epoch)
                yield f"{who} gets the lock, epoch {epoch}", _led(state, number, leads, holder=number, epochs=epoch)
        elif relay.step is Step.ASKS:
            settled, mark = self._settled(state, relay)
            asked = relay._replace(step=Step.READS, settled=settled, mark=mark)
            yield f"{who} may begin at {settled}", _led(state, number, asked)
        elif relay.step is Step.READS:
            yield from self._reads(state, number, relay, Step.FENCES if late and not relay.epoch else Step.PUBLISHES)
        elif relay.step is Step.FENCES:
            fenced = relay._replace(step=Step.PUBLISHES, epoch=state.epochs)
            yield f"{who} starts its producer", _led(state, number, fenced)
        elif relay.step is Step.PUBLISHES:
            yield self._publishes(state, number, relay)
        else:
            yield self._deletes(state, number, relay)

    def _settled(self, state: State, relay: Leader) -> tuple[int, tuple[int, int] | None]:
        """As `_settled_by` does: remember a number, and move to it when all who were writing then have ended."""
        if Mistake.FLOOR_FOLLOWS_WHAT_WAS_READ in self.mistakes:
            return relay.last, None
        number, begun_before = relay.mark or (relay.last, state.next_xid)
        one_too_many = Mistake.FLOOR_MOVES_AT_ONCE in self.mistakes
        if state.oldest() < begun_before - one_too_many:
            return relay.floor, (number, begun_before)
        return number, None

    def _reads(self, state: State, number: int, relay: Leader, then: Step) -> Iterator[tuple[str, State]]:
        hand = tuple(seq for seq in state.unsent() if seq > relay.floor)
        gone: frozenset[int] = frozenset()
        if Mistake.DELETES_BEFORE_IT_IS_ACKNOWLEDGED in self.mistakes:
            gone = frozenset(hand)
        if hand:
            read = relay._replace(step=then, hand=hand, sent=0)
            yield f"relay {number} reads {list(hand)}", _led(state, number, read, deleted=state.deleted | gone)
        elif relay.settled != relay.floor or relay.mark is not None or state.unsent():
            rests = relay._replace(step=Step.ASKS, floor=relay.settled)
            yield f"relay {number} reads nothing", _led(state, number, rests)

    def _publishes(self, state: State, number: int, relay: Leader) -> tuple[str, State]:
        seq = relay.hand[relay.sent]
        newest = max((epoch for _, epoch in state.partition(state.key_of(seq))), default=0)
        if relay.epoch < newest and Mistake.NO_EPOCH not in self.mistakes:
            holder = None if state.holder == number else state.holder
            return f"the broker refuses row {seq} of relay {number}", _led(state, number, Leader(), holder=holder)
        sent = relay._replace(sent=relay.sent + 1)
        if sent.sent == len(relay.hand):
            sent = sent._replace(step=Step.DELETES)
        return f"relay {number} publishes row {seq}", _led(state, number, sent, log=(*state.log, (seq, relay.epoch)))

    def _deletes(self, state: State, number: int, relay: Leader) -> tuple[str, State]:
        if state.holder != number:
            return f"relay {number} can't delete: its session has ended", _led(state, number, Leader())
        last = max(relay.last, relay.hand[-1])
        again = relay._replace(step=Step.ASKS, hand=(), sent=0, last=last, floor=relay.settled)
        deleted = state.deleted | set(relay.hand)
        return f"relay {number} deletes {list(relay.hand)}", _led(state, number, again, deleted=deleted)


def _is_locked(state: State, key: str) -> bool:
    return any(w.seq and not w.ended for w in state.writers if w.key == key)


def _wrote(state: State, number: int, writer: Writer, **changes: int) -> State:
    writers = (*state.writers[:number], writer, *state.writers[number + 1 :])
    return replace(state, writers=writers, **changes)  # type: ignore[arg-type]


def _led(state: State, number: int, relay: Leader, **changes: object) -> State:
    relays = (*state.relays[:number], relay, *state.relays[number + 1 :])
    return replace(state, relays=relays, **changes)  # type: ignore[arg-type]
