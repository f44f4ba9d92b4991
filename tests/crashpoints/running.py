"""Tries cells: sets the traps, tells the stories, sees each process crash and come back, and judges what is left."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from deploy.local.errors import StackError
from deploy.local.product import ServiceProcess
from popfax_contracts.topics import Principal
from tests.crashpoints.crew import Crew
from tests.crashpoints.judging import parked_since, wrong_mails
from tests.crashpoints.matrix import SIGNALS, Cell
from tests.crashpoints.seams import ANSWER, DATA
from tests.crashpoints.stories import STORIES, Person, Script
from tests.crashpoints.trap import Armed
from tests.e2e.driver import SETTLED_S, Seen, World

REACHED_S = 120.0
"""How long a point may take to be reached, on a busy machine."""

ENDED_S = REACHED_S + SETTLED_S
"""How long a round may take until every process is back and every command has its outcome."""

_POLL_S = 0.02


class Stage(Enum):
    """How far a cell has come."""

    ARMED = auto()
    """Its point has not been reached."""
    CRASHED = auto()
    """Its process is dead, or stopped."""
    RETURNING = auto()
    """Its process has been started again, or goes on."""
    RETURNED = auto()
    """Its process is ready."""


@dataclass
class Verdict:
    """What came of a cell."""

    cell: Cell
    reached: bool
    violations: list[str]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether the crash happened, and everything was as it should be."""
        return self.reached and not self.violations


@dataclass
class Trial:
    """One cell that is being tried."""

    cell: Cell
    script: Script
    crew: Crew
    world: World
    stage: Stage = Stage.ARMED
    told: dict[str, Seen] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    _process: ServiceProcess | None = None
    _pid: int = 0
    _between: Iterator[None] | None = None
    _checked: int = 0
    _since: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Set the trap, and send the story's commands."""
        row = self.cell.row
        kind = row.model.TYPE if row.model else None
        causes = self.script.texts if row.point in (DATA, ANSWER) else tuple(self.script.ids)
        assert causes, f"{self.cell.name}: the story has nothing that the point is about"
        self.crew.traps[row.service].arm(Armed(row.point, kind, causes, SIGNALS[self.cell.does]))
        if self.script.between is not None:
            self._between = self.script.between(self.world)
            next(self._between)
        for id_, message, actor in self.script.commands:
            self.world.wire.send(message, actor, id_)

    def step(self) -> bool:
        """Do what can be done now; return whether there is nothing left to do."""
        self._read()
        if self._between is not None and next(self._between, _OVER) is _OVER:
            self._between = None
        match self.stage:
            case Stage.ARMED:
                self._look()
            case Stage.CRASHED:
                self._bring_back()
            case Stage.RETURNING:
                self._greet()
            case Stage.RETURNED:
                return self._between is None and self._is_told()
        return False

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self._between is not None:
            self._between.close()  # type: ignore[attr-defined]  # a generator
        self.crew.traps[self.cell.row.service].disarm()
        if self.stage is Stage.CRASHED and self.cell.does == "stop":
            os.kill(self._pid, signal.SIGCONT)

    def stuck(self) -> str:
        """Say what it is waiting for."""
        missing = len(self.script.ids) - len(self.told)
        held = self.crew.still_held(self.world, self._process) if self.stage is Stage.CRASHED and self._process else ""
        said = f"{self.stage.name.lower()} for {time.monotonic() - self._since:.0f} s, {missing} outcomes are missing"
        return f"{said}, {held}" if held else said

    def _read(self) -> None:
        seen = self.world.log.seen
        for each in seen[self._checked :]:
            if each.kind in self.script.answers.get(each.correlation, ()):
                self.told.setdefault(each.correlation, each)
        self._checked = len(seen)

    def _is_told(self) -> bool:
        """Return whether every command has its outcome, and whoever is to get a mail has got it."""
        if len(self.told) < len(self.script.ids):
            return False
        mail = self.script.mail_to(self.told)
        if mail is None:
            return True
        sent = "SELECT count(*) FROM mails WHERE recipient_id = %s AND template = %s AND state = 'sent'"
        return self.world.rows(Principal.NOTIFICATIONS, sent, *mail) != [(0,)]

    def _go(self, stage: Stage) -> None:
        self.stage, self._since = stage, time.monotonic()

    def _look(self) -> None:
        pid = self.crew.traps[self.cell.row.service].sprung_by()
        if pid is None:
            if time.monotonic() - self._since > REACHED_S:
                raise NotReachedError(self.cell)
            return
        self._pid, self._process = pid, self.crew.process(pid)
        self._go(Stage.CRASHED)

    def _bring_back(self) -> None:
        """Start what was killed, and let go on what was stopped, once it has been given up.

        If there is another replica, only after that one has taken over: all is done without who crashed.
        """
        assert self._process is not None
        alone = self.cell.replicas == 1
        if self.cell.does == "kill":
            if alone or self._is_told():
                self._process.kill()  # it is dead, and is told so
                self.crew.launch(self._process, **self._process.settings)
                self._go(Stage.RETURNING)
        elif (alone or self._is_told()) and not self.crew.still_held(self.world, self._process):
            os.kill(self._pid, signal.SIGCONT)
            self._go(Stage.RETURNING)

    def _greet(self) -> None:
        assert self._process is not None
        try:
            running = self._process.pid
        except StackError:
            self.violations.append(f"{self.cell.row.service} ended by itself, when it could go on")
            self.crew.launch(self._process, **self._process.settings)
            return
        if running and self._process.ready():
            self._go(Stage.RETURNED)


class NotReachedError(Exception):
    """A point was not reached: the cell proves nothing."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell.name)
        self.cell = cell


_OVER = object()


def try_round(crew: Crew, world: World, cells: Sequence[Cell], people: Sequence[Sequence[Person]]) -> list[Verdict]:
    """Try cells side by side, wait until all has settled, and judge.

    A violation of an invariant is one of all cells of the round: who is to blame shows when each is tried alone.
    """
    begun = time.monotonic()
    trials = [
        Trial(cell, STORIES[cell.row.story].write(world, cast), crew, world)
        for cell, cast in zip(cells, people, strict=True)
    ]
    not_reached: set[str] = set()
    shared: list[str] = []
    try:
        for trial in trials:
            trial.begin()
        world.wire.flush(SETTLED_S)
        not_reached = _until_done(world, trials)
        world.settle()
        world.check_log()
        shared += [f"{service} has parked {rows[0]}" for service, rows in parked_since(world).items() if rows]
    except AssertionError as error:
        shared.append(f"{error or type(error).__name__} ({'; '.join(each.stuck() for each in trials)})")
    finally:
        for trial in trials:
            trial.end()
    took = time.monotonic() - begun
    return [
        Verdict(trial.cell, trial.cell.name not in not_reached, [*shared, *_of_its_own(world, trial)], took)
        for trial in trials
    ]


def _until_done(world: World, trials: Sequence[Trial]) -> set[str]:
    """Go on with all trials until they are done; return the names of the cells whose points were not reached."""
    going_on, not_reached = list(trials), set()
    deadline = time.monotonic() + ENDED_S
    while going_on:
        assert time.monotonic() < deadline, "it does not end"
        world.log.read(_POLL_S)
        for trial in list(going_on):
            try:
                if trial.step():
                    going_on.remove(trial)
            except NotReachedError:
                not_reached.add(trial.cell.name)
                going_on.remove(trial)
    return not_reached


def _of_its_own(world: World, trial: Trial) -> list[str]:
    """Return what is wrong with one story: outcomes, units, mails."""
    mail = trial.script.mail_to(trial.told)
    mails = [] if mail is None else wrong_mails(world, [str(mail[0])], mail[1])
    return [*trial.violations, *trial.script.ends(world, trial.told), *mails]
