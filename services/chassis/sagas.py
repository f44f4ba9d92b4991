"""Sagas as data: steps with their commands, replies and compensations.

A `Saga` reads like a table; the engine below it is a pure function of (the saga's row, the message, now) and runs as
an ordinary handler. Its rules (Garcia-Molina & Salem, *Sagas*, 1987; the pivot is Richardson's term):

- Before the pivot, a refusal or the deadline compensates the completed steps, last first.
- A step whose outcome is unknown is never assumed: it is undone by a command that succeeds even when it comes first.
  The pivot can't be undone; it is called off, and the participant answers which of the two came first.
- After the pivot, the saga only goes forward.
- A late or repeated reply is recorded, never an error. After the end it triggers the compensation that is due.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol
from uuid import UUID

from popfax_contracts.message import Event, Message, Refusal
from services.chassis.loading import NeededRows
from services.chassis.messages import Effect, Incoming, Outcome
from services.chassis.rows import Rows, replace
from services.chassis.service import Handler, Moment, needs

TRAIL_LENGTH = 40
"""How many lines of its history a saga keeps, dropping the oldest."""


class Status(StrEnum):
    """The status of a saga."""

    RUNNING = "running"
    """It is waiting for its step's reply."""
    COMPENSATING = "compensating"
    """It undoes what was done, last first, and is waiting for its step to be undone."""
    CANCELLING = "cancelling"
    """It called off its pivot, and is waiting to learn which of the two came first."""
    COMPLETED = "completed"
    """It reached its end."""
    REFUSED = "refused"
    """It ended without effect; `code` says why."""


ENDED = frozenset({Status.COMPLETED, Status.REFUSED})


@dataclass(frozen=True, slots=True)
class SagaRow:
    """A saga's row. Its commands are built from `data`, from which personal data is removed at the end."""

    id: UUID
    name: str
    status: Status
    step: str
    code: str | None
    data: dict[str, Any]
    correlation_id: str
    causation_id: UUID
    actor: UUID | None
    opened_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    trail: tuple[str, ...]


Ask = Callable[[SagaRow], Message]
"""Builds a command from the saga's row. The same saga builds the same command again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a command to a participant, and its possible replies.

    `reference` is the field in which all its replies carry the saga's id. A step with `undo` can be compensated, which
    `undone` confirms. The pivot has `cancel` instead, which is answered by `done` or `refused`. `keep` names the fields
    of `done` that are kept in the saga's data, for what comes after.
    """

    name: str
    ask: Ask
    reference: str
    done: type[Event]
    refused: type[Refusal] | None = None
    undo: Ask | None = None
    undone: type[Event] | None = None
    cancel: Ask | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalPivot:
    """A pivot within the service itself: done or refused in the very transaction that reaches it.

    `apply` changes the state and returns what follows at once, or a refusal code without any change;
    `needs` names what it reads. Its outcome is never unknown, so it never has to be called off.
    """

    name: str
    apply: Callable[[Any, SagaRow, Moment], Outcome | str]
    needs: Callable[[Any, SagaRow], None]


LocalStep = Handler[Any, Any, SagaRow, SagaRow]
"""Changes the service's own state, and returns the messages that tell of it."""


class HasSagas(Protocol):
    """The state of a service that runs sagas."""

    @property
    def sagas(self) -> Rows[UUID, SagaRow]:
        """Return the sagas that a batch may advance."""


class NeedsSagas(Protocol):
    """The load plan of a service that runs sagas."""

    @property
    def sagas(self) -> NeededRows[UUID, SagaRow]:
        """Return the sagas that a batch may advance."""


@dataclass(frozen=True)
class Saga:
    """A saga's definition.

    `completed` and `refused` are its local last steps. `forget` names the personal entries of `data`, which are dropped
    when the saga ends. `deadline` is the time allowed to reach the pivot; a saga open for longer counts as stuck.
    """

    name: str
    steps: tuple[Step | LocalPivot, ...]
    completed: LocalStep
    refused: LocalStep
    deadline: timedelta
    forget: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raise `TypeError` for a definition that could not keep the rules."""
        if sum(map(_is_pivot, self.steps)) != 1:
            raise TypeError(f"saga {self.name}: exactly one step is the pivot (has `cancel`, or is local)")
        if isinstance(self.steps[0], LocalPivot):
            raise TypeError(f"saga {self.name}: a local pivot has nothing to be reached by")
        for index, step in enumerate(self.steps):
            if isinstance(step, LocalPivot):
                continue
            if index < self.pivot and (step.undo is None or step.undone is None):
                raise TypeError(f"saga {self.name}: {step.name} is before the pivot and can't be undone")
            if index > self.pivot and (step.refused or step.undo):
                raise TypeError(f"saga {self.name}: {step.name} is after the pivot, where there is only forward")

    @cached_property
    def pivot(self) -> int:
        """Return the pivot's index among the steps."""
        return next(i for i, step in enumerate(self.steps) if _is_pivot(step))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {step.name: place for place, step in enumerate(self.steps)}

    def index(self, row: SagaRow) -> int:
        """Return the index of a saga's current step."""
        return self._places[row.step]

    def needs(self, load: Any, row: SagaRow, kind: type[Message]) -> None:
        """Name what the local steps that this type of message may reach need: the end only after the last reply."""
        pivot, last = self.steps[self.pivot], self.steps[-1]
        if isinstance(pivot, LocalPivot):
            pivot.needs(load, row)
        if isinstance(last, LocalPivot) or kind is last.done:
            self.completed.needs(load, row)
        self.refused.needs(load, row)

    def begin(
        self, sagas: Rows[UUID, SagaRow], id_: UUID, data: Mapping[str, Any], cause: Incoming[Any], moment: Moment
    ) -> list[Effect]:
        """Open a saga and request its first step."""
        first = self.steps[0]
        assert isinstance(first, Step), "a local pivot is never the first"
        row = SagaRow(
            id=id_,
            name=self.name,
            status=Status.RUNNING,
            step=first.name,
            code=None,
            data=dict(data),
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            actor=cause.actor,
            opened_at=moment.now,
            updated_at=moment.now,
            ended_at=None,
            trail=(_line(moment, "opened"),),
        )
        sagas.put(row)
        return [first.ask(row)]

    @cached_property
    def up_to_pivot(self) -> frozenset[str]:
        """Return the names of the steps during which the deadline applies."""
        return frozenset(step.name for step in self.steps[: self.pivot + 1])


def _is_pivot(step: Step | LocalPivot) -> bool:
    return isinstance(step, LocalPivot) or step.cancel is not None


class SagaDeadline(Message, type="popfax.saga.deadline", key="saga_id"):
    """An alarm's message: the saga should have passed its pivot by now."""

    saga_id: UUID


class RetrySaga(Message, type="popfax.saga.retry", key="saga_id"):
    """An operator's message: send the saga's current command again. Participants repeat their answers."""

    saga_id: UUID


class CancelSaga(Message, type="popfax.saga.cancel", key="saga_id"):
    """An operator's message: call the saga off unless it has passed its pivot."""

    saga_id: UUID


class Sagas:
    """The sagas of one service, and the handlers of every message that advances them."""

    def __init__(self, *definitions: Saga) -> None:
        """Index the definitions by name, and by type the field in which a message has the saga's id."""
        self.definitions = {saga.name: saga for saga in definitions}
        self._references: dict[type[Message], str] = {
            reply: step.reference
            for saga in definitions
            for step in saga.steps
            if isinstance(step, Step)
            for reply in (step.done, step.refused, step.undone)
            if reply is not None
        } | dict.fromkeys((SagaDeadline, RetrySaga, CancelSaga), "saga_id")
        self.reply = needs(self._needs)(self._reply)
        self.deadline = needs(self._needs)(self._deadline)
        self.cancel = needs(self._needs)(self._cancel)
        self.retry = needs(self._needs)(self._retry)

    def _needs(self, load: NeedsSagas, message: Incoming[Message]) -> None:
        """Name the saga that a message may advance, and then what its local steps need."""
        kind = type(message.body)
        load.sagas.then(self._saga_id(message.body), lambda row: self.definitions[row.name].needs(load, row, kind))

    def _saga_id(self, body: Message) -> UUID:
        id_: UUID = getattr(body, self._references[type(body)])
        return id_

    def _reply(self, state: HasSagas, message: Incoming[Event], moment: Moment) -> Outcome:
        """Handle a participant's reply; ignore one to another service's saga."""
        row = state.sagas.find(self._saga_id(message.body))
        if row is None:
            return ()
        saga = self.definitions[row.name]
        run = _Run(saga, state, row, moment)
        kind = type(message.body)
        run.note(kind.__name__)
        if row.status in ENDED:
            return () if run.had_noted(kind.__name__) else run.after_the_end(kind)
        step = run.step()
        if kind is step.done and row.status in (Status.RUNNING, Status.CANCELLING):
            run.keep(step, message.body)
            return run.forward()
        if kind is step.refused and row.status in (Status.RUNNING, Status.CANCELLING):
            return run.back(row.code or message.body.code)  # type: ignore[attr-defined]
        if kind is step.undone and row.status is Status.COMPENSATING:
            return run.back(row.code or "cancelled")
        return () if run.had_noted(kind.__name__) else run.recorded()

    def _deadline(self, state: HasSagas, message: Incoming[SagaDeadline], moment: Moment) -> Outcome:
        """Call off a saga that did not reach its pivot in time."""
        return self._call_off(state, message.body.saga_id, "timed_out", moment)

    def _cancel(self, state: HasSagas, message: Incoming[CancelSaga], moment: Moment) -> Outcome:
        """Call off a saga for an operator."""
        return self._call_off(state, message.body.saga_id, "cancelled", moment)

    def _call_off(self, state: HasSagas, id_: UUID, code: str, moment: Moment) -> Outcome:
        row = state.sagas.find(id_)
        if row is None or row.status is not Status.RUNNING:
            return ()
        saga = self.definitions[row.name]
        run = _Run(saga, state, row, moment)
        if saga.index(row) > saga.pivot:
            run.note(f"{code}: too late, only forward")
            return run.recorded()
        run.note(code)
        return run.call_off(code)

    def _retry(self, state: HasSagas, message: Incoming[RetrySaga], moment: Moment) -> Outcome:
        """Send the saga's current command again."""
        row = state.sagas.find(message.body.saga_id)
        if row is None or row.status in ENDED:
            return ()
        run = _Run(self.definitions[row.name], state, row, moment)
        run.note("asked again")
        return run.ask_again()


class _Run:
    """One turn of one saga."""

    def __init__(self, saga: Saga, state: HasSagas, row: SagaRow, moment: Moment) -> None:
        self.saga = saga
        self.state = state
        self.row = row
        self.moment = moment
        self.trail = row.trail

    def step(self) -> Step:
        """Return the step that the saga is waiting for, which is never a local pivot."""
        step = self.saga.steps[self.saga.index(self.row)]
        assert isinstance(step, Step), "a saga never rests at a local pivot"
        return step

    def note(self, what: str) -> None:
        """Add a line to the trail."""
        self.trail = (*self.trail, _line(self.moment, what))[-TRAIL_LENGTH:]

    def had_noted(self, what: str) -> bool:
        """Return whether the row's trail has such a line: what was told before is told again, and changes nothing."""
        return any(line.endswith(f" {what}") for line in self.row.trail)

    def keep(self, step: Step, done: Event) -> None:
        """Keep what the saga needs of a step's answer."""
        if step.keep:
            kept = done.model_dump(mode="json", include=set(step.keep))
            self.row = replace(self.row, data=self.row.data | kept)

    def recorded(self) -> Outcome:
        """Change nothing but the trail."""
        self._put()
        return ()

    def forward(self) -> Outcome:
        """Go on to the next step, or to the end."""
        index = self.saga.index(self.row)
        if index + 1 == len(self.saga.steps):
            return self._end(Status.COMPLETED, self.saga.completed)
        following = self.saga.steps[index + 1]
        self._put(status=Status.RUNNING, step=following.name, code=None)
        if isinstance(following, Step):
            return [following.ask(self.row)]
        applied = following.apply(self.state, self.row, self.moment)
        if isinstance(applied, str):
            self.note(f"{following.name}: {applied}")
            return self.back(applied)
        self.note(following.name)
        return [*applied, *self.forward()]

    def back(self, code: str) -> Outcome:
        """Continue after the current step was refused or undone: compensate the one before it, or end."""
        index = self.saga.index(self.row)
        if index == 0:
            self._put(code=code)
            return self._end(Status.REFUSED, self.saga.refused)
        self._put(status=Status.COMPENSATING, step=self.saga.steps[index - 1].name, code=code)
        return self.ask_again()

    def call_off(self, code: str) -> Outcome:
        """Stop a step whose outcome is unknown: undo it, or ask the pivot's participant which of the two came first."""
        status = Status.CANCELLING if self.step().cancel else Status.COMPENSATING
        self._put(status=status, code=code)
        return self.ask_again()

    def ask_again(self) -> Outcome:
        """Send the command whose answer the saga is waiting for."""
        step = self.step()
        ask = {Status.COMPENSATING: step.undo, Status.CANCELLING: step.cancel}.get(self.row.status, step.ask)
        self._put()
        return [ask(self.row)] if ask else []

    def after_the_end(self, kind: type[Event]) -> Outcome:
        """Compensate a step that reports success after the saga was refused."""
        late = next((step for step in self.saga.steps if isinstance(step, Step) and step.done is kind), None)
        self._put()
        if self.row.status is Status.REFUSED and late is not None and late.undo is not None:
            return [late.undo(self.row)]
        return ()

    def _end(self, status: Status, tell: LocalStep) -> Sequence[Effect]:
        outcome = tell(self.state, self.row, self.moment)
        self.note(status.value)
        kept = {name: value for name, value in self.row.data.items() if name not in self.saga.forget}
        self._put(status=status, data=kept, ended_at=self.moment.now)
        return outcome

    def _put(self, **changes: Any) -> None:
        self.row = replace(self.row, updated_at=self.moment.now, trail=self.trail, **changes)
        self.state.sagas.put(self.row)


def _line(moment: Moment, what: str) -> str:
    return f"{moment.stamp} {what}"
