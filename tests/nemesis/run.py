"""A run: the product comes up, is loaded and struck, is left alone until it has settled, and is judged."""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import KafkaException

from deploy.local.errors import StackError
from deploy.operator.invariants import Logged, Snapshot, logged
from deploy.operator.kafka import ADMIN
from deploy.operator.log import Reader
from deploy.operator.snapshots import snapshots
from popfax_contracts.notifications import SendInvitation
from popfax_contracts.topics import SERVICES, TOPICS, Principal
from services.chassis.client_state import STRANDED_S
from tests.e2e.driver import World
from tests.nemesis.commands import PER_S, askings, registrations, sendings
from tests.nemesis.faults import FAULTS, Fault, Skipped
from tests.nemesis.fleet import Fleet
from tests.nemesis.history import Entry, history
from tests.nemesis.judges import Breach, Delivery, Evidence, judge
from tests.nemesis.load import Load, token_in
from tests.nemesis.report import Answers, Result, Struck
from tests.nemesis.schedule import Planned, claims, faults

STILL_S = STRANDED_S + 60.0
"""The bound on liveness: once all faults are over, something must move within this time until nothing is left to do.

How long it takes altogether depends on the machine. Longer than it takes until a client that stays out of its group is
replaced, or a replica whose client has deadlocked, shorter than a saga's deadline (5 minutes): a saga that needs its
deadline to end has lost something.
"""

_RESTS_S = 3.0
"""How long nothing may be left to do until that is believed: rows that are due are looked for once a second."""
_MOST_S = 1200.0
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HISTORIES = 5
"""How many violations are told with their history."""
_SAID_EVERY_S = 5.0

_BY_ANOTHER = (StackError, OSError, psutil.Error, psycopg.Error, subprocess.SubprocessError)
"""What a fault raises when what it strikes is not there to be struck."""

Progress = Callable[[str], None]


class Watched(World):
    """The product of a run, and what is not waited for there.

    A clock that was ahead puts mails into the future. And mails wait for days for somebody who could not be registered,
    since another had taken their address meanwhile.
    """

    UNDELIVERED = """
        SELECT id, state FROM mails
        WHERE state IN ('queued', 'rendered') AND next_attempt_at < now() + interval '1 minute'
        AND EXISTS (SELECT FROM people WHERE id = recipient_id)
        AND (about_id IS NULL OR EXISTS (SELECT FROM people WHERE id = about_id)) LIMIT 1
    """


class Stillness:
    """Tells how long nothing has moved."""

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self._state: object = None
        self._since = 0.0

    def is_over(self, state: object, now: float) -> bool:
        """Return whether the state has been the same for longer than the bound."""
        if state != self._state:
            self._state, self._since = state, now
        return now - self._since > self._bound_s


class Run:
    """One run."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        minutes: float,
        progress: Progress,
        only: Sequence[str] = (),
        keep: bool = False,
        per_s: float = PER_S,
    ) -> None:
        """`only` are the kinds of faults, if not all. With `keep`, the directory stays, with logs and all records.

        `per_s` is how many commands are sent per second.
        """
        self._per_s = per_s
        self._only = only
        self._keep = keep
        self._directory = directory
        self._seed = seed
        self._minutes = minutes
        self._progress = progress
        self._struck: list[Struck] = []
        self._active: dict[Planned, tuple[Fault, threading.Thread]] = {}
        self._tokens: dict[str, str] = {}
        self._tokens_read = 0
        self._answers = Answers()
        self._unmended = ""

    def run(self) -> Result:
        """Do it all. Raises StackError when the product does not come up."""
        with Fleet(self._directory, self._progress, self._keep) as fleet:
            world = Watched(fleet.product)
            try:
                return self._judged(fleet, world)
            finally:
                for fault, _ in self._active.values():
                    fault.over.set()
                for _, thread in self._active.values():
                    thread.join()
                world.close()

    def _judged(self, fleet: Fleet, world: World) -> Result:
        for sent in registrations(self._seed):
            world.wire.send_raw(sent.topic.name, sent.key.encode(), sent.value, sent.headers)
        world.wire.flush()
        # Told beforehand: the simulation of a story takes the processor from the threads that are the network.
        commands = list(sendings(self._seed, self._minutes, self._per_s))
        self._progress(f"{len(commands):,} commands are ready")
        load = Load(fleet, commands, askings(self._seed, self._minutes), self._tokens.get)
        self._strike(fleet, world, load)
        load.stop()
        breaches, settled_s = self._settle(fleet, world, load)
        urls = {service: fleet.stack.postgres.url(service) for service in SERVICES}
        with snapshots(urls) as snapshot:
            evidence = self._evidence(fleet, world, load, snapshot)
            breaches += judge(evidence)
        histories: dict[str, list[Entry]] = {}
        for breach in breaches:
            if breach.subject not in histories and len(histories) < _HISTORIES:
                histories[breach.subject] = history(breach.subject, world.log.seen, urls, self._directory)
        if self._keep:
            self._write(world)
        deliveries = evidence.deliveries.values()
        return Result(
            self._seed,
            self._minutes,
            load.sent,
            len(load.acknowledged),
            load.refused,
            load.replaced,
            self._answers,
            load.answers,
            self._struck,
            {name: replica.ended for name, replica in fleet.replicas.items()},
            settled_s,
            sum(1 for each in deliveries if each.uncertain),
            sum(evidence.kept.values()),
            breaches,
            histories,
        )

    def _write(self, world: World) -> None:
        with (self._directory / "records").open("w") as file:
            for seen in world.log.seen:
                moment = datetime.fromtimestamp(seen.at, UTC)
                place = f"{seen.topic}/{seen.partition}@{seen.offset}"
                file.write(f"{moment:%H:%M:%S.%f} {place} {seen.key!r} {seen.value!r} {dict(seen.headers)}\n")

    # --- while things fail ---

    def _strike(self, fleet: Fleet, world: World, load: Load) -> None:
        """Send, and have each fault at its time, until the last one is over."""
        planned = faults(self._seed, self._minutes, self._only)
        load.start()
        began, said = time.monotonic(), 0.0
        while (now := time.monotonic() - began) < self._minutes * 60 or self._active:
            for each in [each for each in planned if each.begins_s <= now]:
                if now >= self._minutes * 60:
                    self._struck.append(Struck(each, time.time(), time.time(), "what it strikes was not whole in time"))
                    planned.remove(each)
                elif not self._is_struck(each):
                    self._begin(fleet, each)
                    planned.remove(each)
            for each in [each for each, (_, thread) in self._active.items() if not thread.is_alive()]:
                del self._active[each]
            if self._unmended:
                raise StackError(self._unmended)
            self._follow(world, load)
            fleet.look_after()
            if now - said >= _SAID_EVERY_S:
                said = now
                self._say(now, load, ", ".join(map(str, self._active)) or "calm")

    def _is_struck(self, planned: Planned) -> bool:
        """Return whether an earlier fault still has what this one strikes: some take their time to mend."""
        return any(claims(planned.victim) & claims(other.victim) for other in self._active)

    def _begin(self, fleet: Fleet, planned: Planned) -> None:
        fault = FAULTS[planned.kind](fleet, planned)
        thread = threading.Thread(target=self._live, args=(fault,), name=str(planned), daemon=True)
        self._active[planned] = fault, thread
        thread.start()

    def _live(self, fault: Fault) -> None:
        """Let a fault begin, last and end."""
        begun_at, skipped = time.time(), ""
        limit = threading.Timer(fault.planned.lasts_s, fault.over.set)
        limit.start()
        try:
            fault.begin()
            fault.over.wait()
        except Skipped as why:
            skipped = str(why)
        except _BY_ANOTHER as error:
            skipped = f"kept from it by another fault: {type(error).__name__}"
        finally:
            limit.cancel()
            self._mend(fault)
        self._struck.append(Struck(fault.planned, begun_at, time.time(), skipped))

    def _mend(self, fault: Fault) -> None:
        """End a fault. What can't be mended ends the run."""
        try:
            fault.end()
        except Exception as error:
            self._unmended = f"{fault.planned} could not be mended: {error}"
            raise

    def _follow(self, world: World, load: Load) -> None:
        seen = world.log.read(0.5)
        for each in seen[self._tokens_read :]:
            if each.says(SendInvitation):
                invitation, token = token_in(each.value or b"{}")
                self._tokens[invitation] = token
        self._tokens_read = len(seen)
        self._answers.follow(seen, load.ids)

    def _say(self, now: float, load: Load, what: str) -> None:
        asked, answered = len(self._answers.asked), len(self._answers.waited_s)
        self._progress(f"{now:5.0f} s  {load.sent:6,} sent  {answered:6,} of {asked:6,} answered  {what}")

    # --- afterwards ---

    def _settle(self, fleet: Fleet, world: World, load: Load) -> tuple[list[Breach], float]:
        """Wait until nothing is left to do; return what does not get done, and how long it took, in seconds."""
        began = said = time.monotonic()
        stillness = Stillness(STILL_S)
        resting, left = Stillness(_RESTS_S), "everything"
        while time.monotonic() - began < _MOST_S:
            fleet.look_after()
            self._follow(world, load)
            try:
                left = world.under_way()
            except psycopg.OperationalError as error:
                left = f"a database does not answer: {str(error).splitlines()[0]}"
                world.disconnect()
            now = time.monotonic()
            if resting.is_over(left, now) and not left:
                return [], now - began
            if now - said >= _SAID_EVERY_S:
                said = now
                self._say(now - began, load, f"all faults are over; {left}")
            if stillness.is_over((left, len(world.log.seen)), now):
                break
        named = _ID.search(left)
        return [Breach("liveness", named[0] if named else "all", left)], time.monotonic() - began

    def _evidence(self, fleet: Fleet, world: World, load: Load, snapshot: Snapshot) -> Evidence:
        read = world.log.read_to_end(STILL_S)
        self._answers.follow(read, load.ids)
        log = [record for seen in read if (record := logged(seen)) is not None]
        compacted = self._compacted(fleet)
        query = (
            "SELECT m.id::text, m.state, coalesce(d.uncertain, 0), d.sent_at IS NOT NULL, d.in_flight_since IS NOT NULL"
            " FROM mails m LEFT JOIN deliveries d ON d.mail_id = m.id"
        )
        rows = world.rows(Principal.NOTIFICATIONS, query)
        deliveries = {id_: Delivery(*columns) for id_, *columns in rows}
        kept = world.copies_received()
        return Evidence(log, compacted, snapshot, load.acknowledged, kept, deliveries, load.unexpected)

    def _compacted(self, fleet: Fleet) -> list[Logged]:
        topics = [topic for topic in TOPICS if topic.compacted]
        deadline = time.monotonic() + STILL_S
        while True:
            try:
                return list(Reader(fleet.stack.kafka.client_config(ADMIN), topics, lambda _: None).read())
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
