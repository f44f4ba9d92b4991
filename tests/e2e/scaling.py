"""What a change of the number of replicas costs, under steady traffic: how long each service is silent, and who waits.

python -m tests.e2e.scaling      measure for some minutes, and print docs/operations/scaling.md's tables (`make scale`)
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, cycle, pairwise
from uuid import UUID, uuid4

from deploy.local.product import ServiceProcess
from deploy.local.stack import Stack
from deploy.paths import STATE
from popfax_contracts.groups import GroupRenamed, MemberAccountCreated, RenameGroup
from popfax_contracts.ledger import CreditUnits, UnitsCredited
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import BounceRefused, MailBounced
from popfax_contracts.provisioning import ChangeEmail, EmailChanged
from popfax_contracts.topics import SERVICES, Principal
from tests.conftest import ANY_PORTS
from tests.e2e.conftest import running_services
from tests.e2e.driver import SETTLED_S, Owner, Seen, World, first_occurrences

SETTINGS = {
    "invitations_owner_day": "5000",
    "mail_backoff_s": "[0.2, 1]",
}
"""Those of production, but for what would refuse the traffic."""

EVERY_S = 0.025
"""How often somebody asks for something: each service in turn, and one account in ten turns."""

OUTCOMES: Mapping[Principal, tuple[type[Message], type[Message]]] = {
    Principal.GROUPS: (RenameGroup, GroupRenamed),
    Principal.LEDGER: (CreditUnits, UnitsCredited),
    Principal.PROVISIONING: (ChangeEmail, EmailChanged),
    Principal.NOTIFICATIONS: (MailBounced, BounceRefused),
}
"""What each service is asked for, many times about each key, and what answers it."""


class Traffic:
    """Asks all services for something, at a steady pace, until it ends."""

    def __init__(self, world: World, owners: int = 24) -> None:
        self.created: list[str] = []
        self.sent = 0
        self._world = world
        self._owners = world.owners(owners, units=100_000)
        self._mails = [uuid4() for _ in range(owners)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._world.wire.flush(SETTLED_S)

    def _send(self) -> None:
        turns = zip(count(), cycle(zip(self._owners, self._mails, strict=True)), strict=False)
        for number, (owner, mail_id) in turns:
            for ask in self._asked(number, owner, mail_id):
                if self._ended.wait(EVERY_S):
                    return
                ask()
                self.sent += 1

    def _asked(self, number: int, owner: Owner, mail_id: UUID) -> Iterator[Callable[[], object]]:
        send, email = self._world.wire.send, f"c{number}.{owner.email}"
        yield lambda: send(RenameGroup(group_id=group_of(owner.id), name=f"Number {number}"), owner.id)
        yield lambda: send(CreditUnits(credit_id=uuid4(), account_id=owner.id, amount_units=1))
        yield lambda: send(ChangeEmail(account_id=owner.id, email=email), owner.id)
        yield lambda: send(MailBounced(mail_id=mail_id, reason="mailbox_unknown"))
        if number % 10 == 0:
            yield lambda: self.created.append(self._world.create(owner))


class Replicas:
    """The replicas of all services: as many of each."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._more: list[list[ServiceProcess]] = []

    def add(self, letter: str, named: bool) -> None:
        """Start one more of each service, with a name of its own or without, and wait until they are ready."""
        added = [ServiceProcess(service, self._stack, name=f"{service}-{letter}") for service in SERVICES]
        self._more.append(added)
        for each in added:
            each.launch(**SETTINGS, **({"replica": letter} if named else {}))
        for each in added:
            each.wait_ready()

    def remove(self) -> None:
        """End the newest of each service, in good order."""
        removed = self._more.pop()
        with ThreadPoolExecutor() as pool:
            codes = list(pool.map(ServiceProcess.stop, removed))
        assert codes == [0] * len(removed)

    def stop(self) -> None:
        """End all that were added."""
        while self._more:
            self.remove()


@dataclass
class Change:
    """A change of the number of replicas, and what came of it until the next one."""

    what: str
    begun_at: float
    """When, in seconds since 1970."""
    silent_s: dict[Principal, float] = field(default_factory=dict)
    """The longest time in which no outcome of a service arrived."""
    waited_s: dict[Principal, float] = field(default_factory=dict)
    """The longest that anybody had waited for an outcome that arrived in this time."""


def change(replicas: Replicas, named: Mapping[str, bool], within_s: Mapping[bool, float]) -> Iterator[Change]:
    """Go from one replica to two, three, two and one of each service, named or not; `within_s` passes after each.

    Whether a replica that ends had a name decides how long that is.
    """
    (second, is_second_named), (third, is_third_named) = named.items()
    for what, do, rest_s in (
        ("1", _nothing, within_s[False]),
        ("1 → 2", lambda: replicas.add(second, is_second_named), within_s[False]),
        ("2 → 3", lambda: replicas.add(third, is_third_named), within_s[False]),
        ("3 → 2", replicas.remove, within_s[is_third_named]),
        ("2 → 1", replicas.remove, within_s[is_second_named]),
    ):
        begun = Change(what, time.time())
        do()
        time.sleep(rest_s)
        yield begun


def _nothing() -> None:
    """Change nothing."""


def measure(changes: Sequence[Change], records: Sequence[Seen], ended_at: float) -> None:
    """Note what came of each change, by the brokers' clocks."""
    periods = [each.begun_at for each in changes] + [ended_at]
    for service, (command, outcome) in OUTCOMES.items():
        asked = {seen.id: seen.at for seen in records if seen.says(command)}
        told = sorted((seen.at, seen.correlation) for seen in first_occurrences(records) if seen.says(outcome))
        for each, (begin, end) in zip(changes, pairwise(periods), strict=True):
            each.silent_s[service] = longest_silence([at for at, _ in told], begin, end)
            waited = (at - asked[id_] for at, id_ in told if begin <= at < end and id_ in asked)
            each.waited_s[service] = max(waited, default=0.0)


def longest_silence(moments: Sequence[float], begin: float, end: float) -> float:
    """Return the longest time between two moments until `end`, the first of which is the last one before `begin`."""
    inside = [at for at in moments if begin <= at < end]
    before = max((at for at in moments if at < begin), default=begin)
    return max(later - earlier for earlier, later in pairwise([before, *inside, end]))


def out_of_order(records: Iterable[Seen]) -> list[str]:
    """Return the keys whose commands were not answered in the order in which they are on their partition."""
    asked: dict[tuple[str, bytes | None], list[str]] = defaultdict(list)
    told: dict[str, list[tuple[int, int]]] = defaultdict(list)
    pairs = dict(OUTCOMES.values())
    types = {command.TYPE for command in pairs}, {outcome.TYPE for outcome in pairs.values()}
    for seen in first_occurrences(records):
        if seen.kind in types[0]:
            asked[seen.kind, seen.key].append(seen.id)
        elif seen.kind in types[1]:
            told[seen.correlation].append((seen.partition, seen.offset))
    found = []
    for (kind, key), ids in asked.items():
        places = [place for id_ in ids for place in told[id_]]
        if [len(told[id_]) for id_ in ids] != [1] * len(ids) or places != sorted(places) or len(dict(places)) > 1:
            found.append(f"{kind} {(key or b'').decode()}")
    return found


def table(changes: Iterable[Change]) -> str:
    """Return the figures as the document has them: silence, and the longest wait."""
    lines = ["| replicas | " + " | ".join(SERVICES) + " |", "| --- |" + " --- |" * len(SERVICES)]
    for each in changes:
        figures = (f"{each.silent_s[service]:.1f} / {each.waited_s[service]:.1f}" for service in SERVICES)
        lines.append(f"| {each.what} | {' | '.join(figures)} |")
    return "\n".join(lines)


def scaled(world: World, named: Mapping[str, bool], within_s: Mapping[bool, float]) -> tuple[list[Change], int]:
    """Scale up and down under traffic; return what came of each change, and how much was asked for.

    Asserts that nothing was lost, and that per key everything happened in order.
    """
    replicas = Replicas(world.stack)
    try:
        with Traffic(world) as traffic:
            changes = list(change(replicas, named, within_s))
            ended_at = time.time()
        world.answers(traffic.created, MemberAccountCreated, timeout_s=SETTLED_S)
        world.settle()
    finally:
        replicas.stop()
    world.check_log()
    records = world.log.seen
    assert out_of_order(records) == []
    assert all(not rows for rows in world.parked().values())
    measure(changes, records, ended_at)
    return changes, traffic.sent


def main() -> None:
    """Measure with and without names, and print the tables."""
    stack = Stack(STATE / f"scaling-{os.getpid()}", ANY_PORTS, fresh=True, tls=True, brokers=3)
    try:
        stack.start()
        for named in (True, False):
            with running_services(stack, SETTINGS | ({"replica": "a"} if named else {})) as product:
                world = World(product)
                changes, sent = scaled(world, {"b": named, "c": named}, {True: 15.0, False: 10.0})
                world.close()
            print(f"\n{'named' if named else 'without names'}: {sent} commands\n\n{table(changes)}", flush=True)
    finally:
        stack.remove()


if __name__ == "__main__":
    main()
