"""The account-creation saga, in every order in which its messages may arrive.

Nothing is modelled but the network: the handlers are the services' own (`services/groups/sagas`, the ledger's and
provisioning's), on the engine of `services/chassis/sagas.py` and rows in memory. What is on its way arrives in any
order, within a key as well, and no inbox keeps out what arrives again: both are more than Kafka and the inbox allow.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount
from popfax_contracts.ledger import (
    CaptureHold,
    HoldCaptured,
    HoldReleased,
    ReleaseHold,
    ReserveUnits,
    SpendUnits,
    UnitsRefused,
    UnitsReserved,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.provisioning import (
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
    ProvisionAccount,
    RegisterSubscriber,
)
from popfax_contracts.topics import Principal
from services.chassis.memory import Contents, MemoryDatabase
from services.chassis.sagas import ENDED, RetrySaga, SagaDeadline, SagaRow
from services.chassis.service import Service
from services.groups import domain as groups
from services.groups.domain import account_of, membership_of, saga_asked_by
from services.ledger import domain as ledger
from services.ledger.domain import HoldState
from services.provisioning import domain as provisioning
from tests.simulation.world import SERVICES, drive
from tests.unit.given import MOMENT, TABLES, id_of, incoming

CROSSES = (
    ReserveUnits,
    UnitsReserved,
    UnitsRefused,
    ReleaseHold,
    HoldReleased,
    CaptureHold,
    HoldCaptured,
    ProvisionAccount,
    AccountProvisioned,
    AccountRefused,
    CancelProvisioning,
)
"""What travels. Everything else that is told on the way (balances, people, memberships) decides no step of it."""

OWNER, STRANGER = id_of("Ada"), id_of("Carl")
EMAIL = "new@example.com"
PRICE, PLAN = 8, "send_only"

PRINCIPALS = (Principal.GROUPS, Principal.LEDGER, Principal.PROVISIONING)

COMMAND = CreateMemberAccount(
    group_id=group_of(OWNER),
    email=EMAIL,
    first_name="New",
    last_name="Member",
    language=Language.FR,
    plan=PLAN,
    price_units=PRICE,
)
SAGA = saga_asked_by(incoming(COMMAND).id)

SPENDS = SpendUnits(spend_id=id_of("fax"), account_id=OWNER, amount_units=5, purpose="fax", reference="fax-1")
REGISTERS = RegisterSubscriber(
    subscriber_id=STRANGER, email=EMAIL, first_name="Carl", last_name="X.", language=Language.EN
)

ROWS: Mapping[Principal, Sequence[Any]] = {
    Principal.GROUPS: (
        groups.Group(group_of(OWNER), OWNER, "Ada", False, None),
        groups.Subscriber(OWNER, "ada@example.com", "Ada", "L.", "en", groups.AccountState.ACTIVE, None, 10, 1),
        groups.Plan(PLAN, PRICE, 12),
    ),
    Principal.LEDGER: (ledger.Account(OWNER, 10, 0, 1),),
    Principal.PROVISIONING: (provisioning.Plan(PLAN, PRICE, 12, fax_number=False),),
}
"""An owner who can pay once, and not if they spend anything before."""

Letter = tuple[Principal, Message]
"""A message on its way to a service."""


@dataclass(frozen=True)
class State:
    """Three databases, and what is on its way between them."""

    databases: Mapping[Principal, Contents]
    on_its_way: frozenset[Letter]
    again: int
    """How many more messages may arrive twice."""
    operator: tuple[type[Message], ...]
    """What may still befall the saga from outside: its deadline, an operator."""
    failed: str = ""
    """The handler that has failed, if one has: none may, whatever it is given."""

    def row(self, principal: Principal, table: str, id_: Any) -> Any:
        """Return a row, or None."""
        return self.databases[principal].tables.get(table, {}).get(id_)

    @property
    def saga(self) -> SagaRow | None:
        """The saga, once it is open."""
        return self.row(Principal.GROUPS, "sagas", SAGA)  # type: ignore[no-any-return]

    @property
    def hold(self) -> HoldState | None:
        """The state of its hold."""
        hold = self.row(Principal.LEDGER, "holds", SAGA)
        return None if hold is None else hold.state

    @property
    def has_account(self) -> bool:
        """Whether its account exists."""
        return self.row(Principal.PROVISIONING, "subscribers", account_of(SAGA)) is not None

    @property
    def has_member(self) -> bool:
        """Whether its account is a member."""
        found = self.row(Principal.GROUPS, "memberships", membership_of(group_of(OWNER), account_of(SAGA)))
        return found is not None and found.active


@dataclass(frozen=True)
class CreationSaga:
    """The model: services, of which one may have a mistake in it, and what may befall the saga from outside."""

    services: Sequence[Service] = SERVICES
    again: int = 1
    operator: Sequence[type[Message]] = (SagaDeadline, RetrySaga)
    others: Sequence[Letter] = ((Principal.LEDGER, SPENDS), (Principal.PROVISIONING, REGISTERS))
    """What others do meanwhile: the owner spends their units, a stranger takes the address."""
    _texts: dict[int, tuple[Any, str]] = field(default_factory=dict, compare=False, repr=False)

    def initial(self) -> State:
        """The command is on its way to groups, and what others do to the other two."""
        on_its_way = frozenset({(Principal.GROUPS, COMMAND), *self.others})
        return State({each: _contents(ROWS[each]) for each in PRINCIPALS}, on_its_way, self.again, tuple(self.operator))

    def key(self, state: State) -> Hashable:
        """All rows, without the order in which a saga's trail was written: what is asked of it is what it holds."""
        rows = tuple(
            frozenset(self._text(row) for table in contents.tables.values() for row in table.values())
            for contents in state.databases.values()
        )
        return rows, state.on_its_way, state.again, state.operator, state.failed

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Anything arrives, once or not for the last time; the deadline passes; an operator acts."""
        for letter in state.on_its_way:
            principal, message = letter
            told = f"{type(message).__name__} arrives at {principal}"
            rest = state.on_its_way - {letter}
            yield told, self._handled(replace(state, on_its_way=rest), principal, message)
            if state.again:
                twice = replace(state, again=state.again - 1)
                yield f"{told}, and will arrive again", self._handled(twice, principal, message)
        if state.saga is not None:
            for place, kind in enumerate(state.operator):
                left = (*state.operator[:place], *state.operator[place + 1 :])
                message = kind(saga_id=SAGA)
                yield kind.__name__, self._handled(replace(state, operator=left), Principal.GROUPS, message)

    def violation(self, state: State) -> str | None:
        """Never an account without its payment, nor a payment without its account; nothing is spent twice."""
        if state.failed:
            return state.failed
        if state.has_account and state.hold not in (HoldState.OPEN, HoldState.CAPTURED):
            return f"the account exists, and its hold is {state.hold}"
        if state.hold is HoldState.CAPTURED and not state.has_account:
            return "the payment is taken, and there is no account"
        if state.has_member and state.hold is not HoldState.CAPTURED:
            return f"the account is a member, and its hold is {state.hold}"
        if state.row(Principal.LEDGER, "accounts", OWNER).available_units < 0:
            return "the owner has less than nothing"
        return None

    def ending(self, state: State) -> str | None:
        """The saga has ended, one way or the other, and all three databases agree."""
        saga = state.saga
        if saga is None:
            return None
        if saga.status not in ENDED:
            return f"the saga never ends: it is {saga.status} at {saga.step}"
        found = (saga.status == "completed", state.has_account, state.hold is HoldState.CAPTURED, state.has_member)
        if len(set(found)) > 1:
            return "completed, account, payment, membership: {} {} {} {}".format(*found)
        if state.hold is HoldState.OPEN:
            return "the hold stays open"
        return None

    def _handled(self, state: State, principal: Principal, message: Message) -> State:
        """Let a service handle a message; what it answers is on its way to whoever handles that."""
        service = next(each for each in self.services if each.principal is principal)
        database = MemoryDatabase()
        database.contents = state.databases[principal]
        try:
            sent = drive(_handle(service, database, message))
        except ValueError as error:
            return replace(state, failed=f"{principal} fails at {type(message).__name__}: {type(error).__name__}")
        letters = {
            (each.principal, answer)
            for answer in sent
            if isinstance(answer, CROSSES)
            for each in self.services
            if each.principal in PRINCIPALS and type(answer) in each.handlers
        }
        databases = {**state.databases, principal: database.contents}
        return replace(state, databases=databases, on_its_way=state.on_its_way | letters)

    def _text(self, row: Any) -> str:
        """Return a row as text; rows are shared between states, and most were asked for before."""
        known = self._texts.get(id(row))
        if known is None:
            seen = replace(row, trail=tuple(sorted(set(row.trail)))) if isinstance(row, SagaRow) else row
            known = self._texts[id(row)] = row, repr(seen)
        return known[1]


async def _handle(service: Service, database: MemoryDatabase, message: Message) -> Sequence[Any]:
    arrived = incoming(message, OWNER)
    async with database.begin() as tx:
        state = await service.state(tx, [arrived])
        outcome = list(service.handler(arrived)(state, arrived, MOMENT))
        await tx.save(state.changes())
    return outcome


def _contents(rows: Sequence[Any]) -> Contents:
    contents = Contents()
    for row in rows:
        mapped = TABLES[type(row)]
        contents.tables.setdefault(mapped.table.name, {})[mapped.key_of(row)] = row
    return contents
