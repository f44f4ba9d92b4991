"""What crosses shards once a service has more than one database: counted on a population, not measured.

    python -m tests.bench.sharding

A service's database is cut by a key: rows of one key stay together. This counts, for keys that might do, how many
commands then touch rows of more than one shard, and how unequal the shards become. It is arithmetic on a population
that is made with a fixed seed, so it says the same on every machine. The population's numbers are assumptions, and are
named; change them and look again.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import cast

from tests.bench.details import Grid
from tests.bench.table import markdown

SEED = 56
OWNERS = 5_000
ACCOUNTS = 50_000
LARGEST = 2_000
"""A group's most members. Sizes follow Zipf's law: half the groups have three members at most, a few have thousands."""
MOST_LEGS = 1000
"""The most members of one transfer."""
COMMANDS = 10_000
MIX = {"create an account": 20, "transfer to one member": 40, "transfer to all members": 5, "invite": 20, "spend": 15}
"""How many of a hundred commands are which."""
SHARDS = (2, 4, 16, 64)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the account that it is about, and the others whose units it changes."""

    kind: str
    owner: int
    account: int
    others: Sequence[int]
    invited: int | None = None


Home = Mapping[int, int]
"""The owner of the first group that each account was in."""

Key = Callable[[Command, Home], Iterator[Hashable]]
"""Yields the keys of all rows that a command touches in one transaction of a service."""


def population(rng: random.Random) -> list[list[int]]:
    """Return the members of each owner's group. Owner `n` has the account `n`; a member may be in several groups."""
    sizes = [min(LARGEST, int(rng.paretovariate(1.0))) for _ in range(OWNERS)]
    return [rng.sample(range(OWNERS, ACCOUNTS), size) for size in sizes]


def commands(groups: Sequence[Sequence[int]], rng: random.Random) -> Iterator[Command]:
    """Yield commands: a group gives as many as it has members, so the large ones give most."""
    owners = rng.choices(range(OWNERS), [len(group) for group in groups], k=COMMANDS)
    kinds = rng.choices(list(MIX), list(MIX.values()), k=COMMANDS)
    for number, (owner, kind) in enumerate(zip(owners, kinds, strict=True)):
        group = groups[owner]
        match kind:
            case "transfer to one member":
                yield Command(kind, owner, owner, [rng.choice(group)])
            case "transfer to all members":
                yield Command(kind, owner, owner, group[:MOST_LEGS])
            case "spend":
                yield Command(kind, owner, rng.choice(group), [])
            case "invite":
                yield Command(kind, owner, owner, [], rng.choice(group))
            case _:
                yield Command(kind, owner, owner, [], ACCOUNTS + number)


def _ledger_by_account(command: Command, _: Home) -> Iterator[Hashable]:
    if command.kind != "invite":
        yield command.account
        yield from command.others


def _ledger_by_group(command: Command, home: Home) -> Iterator[Hashable]:
    """An account is where its first group's owner is, since it can't be in two places: elsewhere for the second."""
    return (home.get(account, account) for account in cast(Iterator[int], _ledger_by_account(command, home)))


def _groups_by_owner(command: Command, _: Home) -> Iterator[Hashable]:
    if command.kind != "spend":
        yield command.owner


def _groups_by_person(command: Command, home: Home) -> Iterator[Hashable]:
    """With memberships and invitations where the member is, not where the group is."""
    yield from _groups_by_owner(command, home)
    if command.kind != "spend":
        yield from command.others
    if command.invited is not None:
        yield command.invited


def _provisioning(command: Command, _: Home) -> Iterator[Hashable]:
    """An address is where its hash says, whoever has it: that is how it can be unique."""
    if command.kind == "create an account":
        yield "account", command.invited
        yield "address", command.invited


KEYS: Mapping[str, Key] = {
    "ledger: by account": _ledger_by_account,
    "ledger: by the owner of the account's first group": _ledger_by_group,
    "groups: by owner": _groups_by_owner,
    "groups: by owner, memberships by member": _groups_by_person,
    "provisioning: by account, addresses by address": _provisioning,
}


@dataclass(frozen=True, slots=True)
class Cut:
    """What a key leads to: the share of commands that touch several shards, and the fullest shard ÷ the average."""

    crossing: float
    fullest: float


def cut(key: Key, given: Sequence[Command], home: Home, shards: int) -> Cut:
    """Count what crosses so many shards, and how the load is spread over them."""
    load: Counter[int] = Counter()
    touching = crossing = 0
    for command in given:
        found = {shard_of(each, shards) for each in key(command, home)}
        load.update(found)
        touching += bool(found)
        crossing += len(found) > 1
    return Cut(crossing / touching, max(load.values()) * shards / load.total())


def shard_of(key: Hashable, shards: int) -> int:
    """Return the shard of a key."""
    return _hash(key) % shards


@cache
def _hash(key: Hashable) -> int:
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest())


def grid() -> Grid:
    """Return the table: each key, with what crosses and the fullest shard, for each number of shards."""
    rng = random.Random(SEED)
    groups = population(rng)
    given = list(commands(groups, rng))
    home = {member: owner for owner, group in reversed(list(enumerate(groups))) for member in group}
    rows = []
    for name, key in KEYS.items():
        cuts = [cut(key, given, home, shards) for shards in SHARDS]
        rows.append([name, *(f"{each.crossing:.0%}, {each.fullest:.2f}" for each in cuts)])
    return Grid(["crossing commands, fullest shard ÷ average", *(f"{shards} shards" for shards in SHARDS)], rows)


if __name__ == "__main__":
    print(markdown(*grid()))
