"""Counts the costs of a product that wastes: a statement with every load, and calls for every message that it sends."""

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from popfax_contracts.message import Message
from services.chassis.database import Among
from services.chassis.postgres import PostgresTransaction
from services.chassis.rows import Mapped, Rows
from tests.guard.__main__ import main

_fetch, _key = PostgresTransaction.fetch, Message.key


def _fetch_twice(
    self: PostgresTransaction,
    mapped: Mapped[Any, Any],
    keys: Iterable[Any],
    sets: Sequence[Among] = (),
    *,
    for_update: bool = True,
) -> Awaitable[Rows[Any, Any]]:
    found = list(keys)
    _fetch(self, mapped, found, sets, for_update=for_update)
    return _fetch(self, mapped, found, sets, for_update=for_update)


def _key_at_length(self: Message) -> str:
    return "".join(str(character) for character in _key(self))


if __name__ == "__main__":
    PostgresTransaction.fetch = _fetch_twice  # type: ignore[method-assign]
    Message.key = _key_at_length  # type: ignore[method-assign]
    main()
