"""Commands posted over HTTP, and what their callers must see as soon as they learn that a command has ended.

Expectations come from the databases, not from what the answers say: a command's end is compared with the books as they
were when its units moved.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from popfax_contracts.groups import CreateMemberAccount, TransferUnits
from popfax_contracts.ids import derive_own, message_id
from popfax_contracts.message import Command
from popfax_contracts.topics import GROUPS_COMMANDS_FROM_HTTP, Principal
from services.chassis.memory import MemoryDatabase
from services.chassis.messages import Outgoing, source_of
from services.chassis.rows import Mapped
from services.groups.commands import POSTABLE
from services.groups.domain import AccountState, CommandState, PostedCommand, Subscriber, account_of, saga_asked_by
from services.groups.tables import COMMANDS, SUBSCRIBERS
from services.ledger.domain import HoldState
from services.ledger.tables import ACCOUNTS, ENTRIES, HOLDS
from tests.simulation.commands import Sent

_MODELS: Mapping[str, type[Command]] = {model.TYPE: model for model in POSTABLE.values()}


class Posts:
    """The commands posted to one simulated product."""

    def __init__(self, random: Random, groups: MemoryDatabase, ledger: MemoryDatabase) -> None:
        self._random = random
        self._groups = groups
        self._ledger = ledger
        self._moved: dict[UUID, dict[UUID, int]] = {}
        """By transfer or hold: the accounts whose balance it changed, each with the version that was published."""
        self._seen_entries = 0
        self._by_post: dict[bytes, bool] = {}
        """Every message id that was sent, and whether it was posted over HTTP."""
        self._told: set[UUID] = set()
        self.findings: list[str] = []

    def take(self, sent: Sent, now: datetime) -> bool:
        """Sometimes post what the platform would send, if it is readable; return whether it was posted."""
        headers = dict(sent.headers)
        id_, model = headers.get("ce_id") or b"", _MODELS.get((headers.get("ce_type") or b"").decode("latin-1"))
        if id_ in self._by_post:
            return self._by_post[id_]  # posted again, it is known and not published a second time
        self._by_post[id_] = False
        if model is None or "ce_actor" not in headers or self._random.random() < 0.5:
            return False
        with suppress(ValueError):
            body = model.from_json(sent.value)
            if body.key() == sent.key:
                self._post(body, UUID(id_.decode()), UUID((headers["ce_actor"] or b"").decode()), now)
                self._by_post[id_] = True
        return self._by_post[id_]

    def _post(self, body: Command, id_: UUID, actor: UUID, now: datetime) -> None:
        contents = self._groups.contents
        row = PostedCommand(id_, body.TYPE, actor, b"", CommandState.PENDING, None, None, now, None)
        contents.tables.setdefault(COMMANDS.table.name, {})[id_] = row
        contents.outbox.append(Outgoing(id_, body.TYPE, body.key(), body.to_json(), str(id_), str(id_), actor, None))

    def ledger_committed(self) -> None:
        """Note what has moved, and the versions that are published: a batch publishes only its last ones."""
        accounts = _rows(self._ledger, ACCOUNTS)
        entries = self._ledger.contents.appended.get(ENTRIES.table.name, [])
        for entry in entries[self._seen_entries :]:
            if entry.account_id in accounts:
                moved = self._moved.setdefault(entry.transfer_id, {})
                moved[entry.account_id] = accounts[entry.account_id].revision
        self._seen_entries = len(entries)
        for hold in _rows(self._ledger, HOLDS).values():
            if hold.state is HoldState.RELEASED and hold.id not in self._moved:
                self._moved[hold.id] = {hold.account_id: accounts[hold.account_id].revision}

    def groups_committed(self) -> None:
        """Look at the commands that have just ended, as their callers do: all of their changes must be visible."""
        for command in _rows(self._groups, COMMANDS).values():
            if command.state is not CommandState.PENDING and command.id not in self._told:
                self._told.add(command.id)
                self.findings += [
                    f"{command.id} is {command.state.value}, unseen: {what}" for what in self._lacks(command)
                ]

    def _lacks(self, command: PostedCommand) -> Iterator[str]:
        subscribers: Mapping[UUID, Subscriber] = _rows(self._groups, SUBSCRIBERS)
        source = source_of(Principal.GROUPS).encode()
        who = message_id(GROUPS_COMMANDS_FROM_HTTP.name, source, str(command.id).encode())
        made = derive_own(who, "transfer") if command.type == TransferUnits.TYPE else saga_asked_by(who)
        for account_id, version in self._moved.get(made, {}).items():
            known = subscribers.get(account_id)
            if known is None or (known.state is not AccountState.CLOSED and known.balance_version < version):
                yield f"the balance of {account_id}, version {version}"
        if command.type == CreateMemberAccount.TYPE and command.state is CommandState.DONE:
            holder = subscribers.get(account_of(made))
            if holder is None or (holder.state is not AccountState.CLOSED and holder.email is None):
                yield "who the new member is"

    def unended(self) -> list[str]:
        """Return the posted commands that have not ended or still await changes, except parked ones."""
        records = (row.parked.record for row in self._groups.contents.parked.values())
        parked = {value for record in records for name, value in record.headers if name == "ce_id"}
        pending = [each for each in _rows(self._groups, COMMANDS).values() if each.state is CommandState.PENDING]
        found = [f"{each.id} ({each.type}) has not ended" for each in pending if str(each.id).encode() not in parked]
        subscribers = _rows(self._groups, SUBSCRIBERS).values()
        return found + [f"{each.id} is awaited: {each.awaited}" for each in subscribers if each.awaited]


def _rows(database: MemoryDatabase, mapped: Mapped[Any, Any]) -> dict[Any, Any]:
    return database.contents.tables.get(mapped.table.name, {})
