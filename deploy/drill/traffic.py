"""Traffic for a drill: account creations, credits and transfers, without a pause, and when each was answered."""

import threading
from datetime import UTC, datetime
from itertools import count
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import sqlalchemy as sa

from deploy.drill.asked import Asked, unanswered
from deploy.local.process import wait_until
from deploy.operator.cli.connection import Connection
from deploy.operator.cli.errors import Failure
from deploy.operator.cli.wire import Publisher, Seen, Watch
from deploy.operator.kafka import ADMIN
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, TransferUnits
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.message import Command, group_of
from popfax_contracts.provisioning import RegisterSubscriber
from popfax_contracts.topics import GROUPS_EVENTS, LEDGER_EVENTS, PROVISIONING_EVENTS, Principal
from services.groups.tables import plans, subscribers

_OWNERS = 6
_EVERY_S = 0.4
"""How often an owner credits units, creates an account and transfers units, in seconds."""
_POLL_S = 0.1
_EARLY = 100
"""How many events may be read before it is known what they answer."""
_REGISTERED_WITHIN_S = 60.0
_UNITS = 1_000_000
_PLAN = "send_only"


class Traffic:
    """Sends commands in a thread and reads their outcomes in another, while it is entered.

    Entering registers owners and gives them units. Raises TimeoutError if nobody is registered in time.
    """

    def __init__(self, connection: Connection) -> None:
        self.asked: list[Asked] = []
        self._by_id: dict[str, Asked] = {}
        self._members: dict[UUID, UUID] = {}
        self._owners = [uuid4() for _ in range(_OWNERS)]
        self._connection = connection
        self._publisher = Publisher(connection.kafka(Principal.PLATFORM))
        topics = (GROUPS_EVENTS, LEDGER_EVENTS, PROVISIONING_EVENTS)
        self._watch = Watch(connection.admin, topics, group=ADMIN)
        self._flows, self._ended = threading.Event(), threading.Event()
        self._sending = threading.Lock()
        self._failure: Exception | None = None
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._send)]

    @property
    def sent(self) -> int:
        """How many commands were sent so far."""
        return len(self.asked)

    def has_answered(self, number: int) -> bool:
        """Return whether so many commands were sent, and all of them are answered. Raises what broke the traffic."""
        if self._failure is not None:
            raise self._failure
        return self.sent >= number and not unanswered(self.asked[:number])

    def pause(self) -> None:
        """Send nothing more until `resume`; what is being sent is sent before this returns."""
        with self._sending:
            self._flows.clear()

    def resume(self) -> None:
        """Let it flow again."""
        self._flows.set()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._flows.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._watch.close()

    def _begin(self) -> None:
        """Register the owners, give them units, and let it flow."""
        self._threads[0].start()
        registered = [(_registration(owner), None) for owner in self._owners]
        self._publish(*registered, *((_credit(owner, _UNITS), None) for owner in self._owners))
        if not wait_until(lambda: self._is_known() and not unanswered(self.asked), _REGISTERED_WITHIN_S, 0.2):
            raise TimeoutError("nobody could be registered")
        self._flows.set()
        self._threads[1].start()

    def _send(self) -> None:
        for number in count():
            self._flows.wait()
            if self._ended.wait(_EVERY_S):
                return
            try:
                with self._sending:
                    if self._flows.is_set():
                        self._publish(*self._round(self._owners[number % _OWNERS]))
            except Failure as failure:
                self._failure = failure
                return

    def _round(self, owner: UUID) -> list[tuple[Command, UUID | None]]:
        creation = CreateMemberAccount(
            group_id=group_of(owner),
            plan=_PLAN,
            price_units=self._price(),
            email=f"{uuid4().hex[:12]}@members.example",
            first_name="Nina",
            last_name="Petit",
            language=Language.EN,
        )
        made: list[tuple[Command, UUID | None]] = [(_credit(owner, 1), None), (creation, owner)]
        if member := self._members.get(owner):
            transfer = TransferUnits(group_id=group_of(owner), mode="amount", amount_units=1, members=(member,))
            made.append((transfer, owner))
        return made

    def _is_known(self) -> bool:
        """Return whether `groups` knows the owners and the price."""
        known = sa.select(sa.func.count()).select_from(subscribers).where(subscribers.c.id.in_(self._owners))
        return self._connection.rows(Principal.GROUPS, known)[0][0] == _OWNERS and self._price() > 0

    def _price(self) -> int:
        """Return the plan's present price, 0 if it has none yet: an upgrade may change it."""
        price = sa.select(plans.c.price_units).where(plans.c.plan == _PLAN)
        found = self._connection.rows(Principal.GROUPS, price)
        return int(found[0].price_units) if found else 0

    def _publish(self, *commands: tuple[Command, UUID | None]) -> None:
        at = datetime.now(UTC)
        for sent in self._publisher.publish(*commands):
            asked = Asked(str(sent.id), sent.command, at)
            self._by_id[asked.id] = asked
            self.asked.append(asked)

    def _read(self) -> None:
        early: list[Seen] = []
        try:
            while not self._ended.is_set():
                seen = self._watch.poll(_POLL_S)
                # What was published together is noted together, when `publish` returns: an outcome may be read before.
                early = [each for each in (*early, *([seen] if seen else ())) if not self._note(each)]
                early = early[-_EARLY:]
        except Failure as failure:
            self._failure = failure

    def _note(self, seen: Seen) -> bool:
        """Note an event if it answers a command; return whether it belongs to one."""
        asked = self._by_id.get(seen.correlation_id)
        if asked is None:
            return False
        if isinstance(seen.body, MemberAccountCreated):
            self._members.setdefault(seen.body.owner_id, seen.body.member_id)
        if seen.type in {model.TYPE for model in asked.command.outcomes()}:
            asked.answers[seen.id] = seen
        return True


def _registration(owner: UUID) -> RegisterSubscriber:
    return RegisterSubscriber(
        subscriber_id=owner,
        email=f"{owner.hex[:12]}@owners.example",
        first_name="Anne",
        last_name="Martin",
        language=Language.FR,
        plan=None,
        expires_at=None,
    )


def _credit(owner: UUID, units: int) -> CreditUnits:
    return CreditUnits(credit_id=uuid4(), account_id=owner, amount_units=units)
