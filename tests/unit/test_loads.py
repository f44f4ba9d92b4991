"""What a batch costs its database: the statements of its load, by service, however many messages there are.

The order in which tables are locked is part of it: two batches that lock in different orders can block each other.
"""

import gc
import weakref
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from popfax_contracts.fields import Language
from popfax_contracts.groups import (
    AcceptInvitation,
    CreateMemberAccount,
    DetachMembers,
    InviteByEmail,
    LeaveGroup,
    MemberRef,
    TransferUnits,
    UnitsReceived,
)
from popfax_contracts.ledger import (
    BalanceChanged,
    CaptureHold,
    CreditUnits,
    HoldCaptured,
    Leg,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    SpendUnits,
    TransfersPosted,
    UnitsReserved,
)
from popfax_contracts.message import Message, group_of
from popfax_contracts.notifications import MailBounced
from popfax_contracts.provisioning import (
    AccountClosed,
    CloseAccount,
    ExtendAccount,
    PersonErased,
    PlanPublished,
    ProvisionAccount,
)
from services.chassis.database import Among
from services.chassis.memory import MemoryDatabase, MemoryTransaction
from services.chassis.rows import Mapped, Rows
from services.chassis.service import Service
from services.groups.consumers import GROUPS
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.provisioning.consumers import PROVISIONING
from tests.simulation.world import drive
from tests.unit.given import id_of, incoming

ADA = id_of("Ada")
GROUP = group_of(ADA)


class Counted(MemoryTransaction):
    """Notes what PostgreSQL would be asked: nothing where nothing is named."""

    statements: list[str]

    def fetch(
        self, mapped: Mapped[Any, Any], keys: Iterable[Any], sets: Sequence[Among] = (), *, for_update: bool = True
    ) -> Awaitable[Rows[Any, Any]]:
        sets, keys = [among for among in sets if all(among.values())], list(keys)
        assert None not in keys, "a row is named by its key"
        if keys or sets:
            by = [f"by {', '.join(among) or 'nothing'}" for among in sets]
            self.statements.append(
                " ".join(["lock" if for_update else "read", mapped.table.name, " and ".join(by)]).strip()
            )
        return super().fetch(mapped, keys, sets, for_update=for_update)

    def keys(self, mapped: Mapped[Any, Any], among: Among) -> Awaitable[set[Any]]:
        if all(among.values()):
            self.statements.append(f"find {mapped.table.name} by {', '.join(among) or 'nothing'}")
        return super().keys(mapped, among)

    async def take(self, mapped: Mapped[Any, Any], matching: Mapping[str, Any], limit: int) -> Rows[Any, Any]:
        if limit:
            self.statements.append(f"take {mapped.table.name}")
        return await super().take(mapped, matching, limit)


def statements(service: Service, messages: Sequence[Message]) -> list[str]:
    tx = Counted(MemoryDatabase().contents)
    tx.statements = []
    batch = [replace(incoming(message, ADA, uuid4()), correlation_id=str(uuid4())) for message in messages]
    drive(service.state(tx, batch))
    return tx.statements


def movements() -> list[Message]:
    return [
        CreditUnits(credit_id=uuid4(), account_id=uuid4(), amount_units=1),
        SpendUnits(spend_id=uuid4(), account_id=uuid4(), amount_units=1, purpose="fax", reference="fax-1"),
        ReserveUnits(hold_id=uuid4(), account_id=uuid4(), amount_units=1),
        CaptureHold(hold_id=uuid4(), account_id=uuid4()),
        ReleaseHold(hold_id=uuid4(), account_id=uuid4()),
        PostTransfers(transfer_id=uuid4(), source_id=uuid4(), legs=(Leg(account_id=uuid4(), amount_units=1),)),
    ]


def new_account(email: str) -> CreateMemberAccount:
    return CreateMemberAccount(
        group_id=GROUP,
        plan="send_only",
        price_units=1,
        email=email,
        first_name="B",
        last_name="B",
        language=Language.FR,
    )


def provision(email: str) -> ProvisionAccount:
    return ProvisionAccount(
        request_id=uuid4(),
        account_id=uuid4(),
        plan="send_only",
        price_units=1,
        email=email,
        first_name="B",
        last_name="B",
        language=Language.FR,
    )


BATCHES: dict[str, tuple[Service, list[Message], list[str]]] = {
    "units move": (LEDGER, movements(), ["lock accounts", "lock holds", "lock transfers"]),
    "accounts are asked for": (
        GROUPS,
        [new_account("b@example.org")],
        [
            "find commands by id",
            "lock sagas",
            "lock subscribers by email",
            "lock groups",
            "read plans",
            "lock tallies",
            "lock history",
        ],
    ),
    "sagas go on": (
        GROUPS,
        [
            UnitsReserved(hold_id=uuid4(), account_id=ADA, amount_units=1),
            HoldCaptured(hold_id=uuid4(), account_id=ADA, amount_units=1, version=1),
        ],
        ["find commands by id", "lock sagas"],
    ),
    "balances change": (
        GROUPS,
        [BalanceChanged(account_id=ADA, version=1, balance_units=1, available_units=1)],
        ["lock subscribers", "lock standing_orders by member_id, state, kind"],
    ),
    "units are transferred": (
        GROUPS,
        [TransferUnits(group_id=GROUP, mode="amount", amount_units=1, members="all")],
        ["find commands by id", "lock groups", "lock memberships by group_id, active", "lock transfers"],
    ),
    "a transfer is not the group's": (
        GROUPS,
        [TransfersPosted(transfer_id=uuid4(), source_id=ADA, legs=(), total_units=0, version=1)],
        ["find commands by id", "lock transfers"],
    ),
    "somebody is invited": (
        GROUPS,
        [InviteByEmail(group_id=GROUP, email="b@example.org")],
        [
            "find commands by id",
            "read invitations",
            "lock subscribers by email",
            "lock groups",
            "lock invitations",
            "read plans by nothing",
            "lock tallies",
            "lock history",
        ],
    ),
    "an account ends": (
        GROUPS,
        [AccountClosed(account_id=ADA)],
        [
            "lock subscribers",
            "lock groups",
            "find invitations by subscriber_id",
            "find invitations by group_id, state",
            "lock memberships by member_id and by group_id, active",
        ],
    ),
    "members are detached": (
        GROUPS,
        [DetachMembers(group_id=GROUP, members=(MemberRef(member_id=uuid4()),))],
        ["find commands by id", "lock subscribers", "lock groups", "lock memberships", "lock standing_orders"],
    ),
    "a member leaves": (
        GROUPS,
        [LeaveGroup(group_id=GROUP)],
        ["find commands by id", "lock subscribers", "lock groups", "lock memberships", "lock standing_orders"],
    ),
    "a plan has another price": (
        GROUPS,
        [PlanPublished(plan="send_only", price_units=2, validity_months=12, fax_number=False)],
        ["lock plans"],
    ),
    "an invitation is accepted": (
        GROUPS,
        [AcceptInvitation(invitation_id=uuid4())],
        ["find commands by id", "read invitations", "lock invitations", "lock history"],
    ),
    "accounts are created": (
        PROVISIONING,
        [provision("b@example.org")],
        ["lock subscribers", "lock addresses", "lock requests", "read plans by nothing"],
    ),
    "something is bought": (
        PROVISIONING,
        [ExtendAccount(request_id=uuid4(), account_id=ADA, price_units=1)],
        ["lock purchases", "lock subscribers", "read plans by nothing", "read options"],
    ),
    "accounts are closed": (
        PROVISIONING,
        [CloseAccount(account_id=ADA)],
        ["lock subscribers", "read plans by nothing"],
    ),
    "mails are written": (
        NOTIFICATIONS,
        [UnitsReceived(group_id=GROUP, owner_id=ADA, member_id=uuid4(), transfer_id=uuid4(), amount_units=1)],
        ["read erased", "lock mails"],
    ),
    "somebody is erased": (
        NOTIFICATIONS,
        [PersonErased(subscriber_id=ADA)],
        ["lock people", "read erased", "lock mails by recipient_id, state and by about_id, state"],
    ),
    "mails come back": (
        NOTIFICATIONS,
        [MailBounced(mail_id=uuid4(), reason="mailbox_full")],
        ["lock mails", "lock deliveries"],
    ),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("times", [1, 50])
def test_a_batch_costs_as_many_statements_however_many_messages_it_has(name: str, times: int) -> None:
    service, messages, expected = BATCHES[name]
    assert statements(service, messages * times) == expected


@pytest.mark.parametrize("service", [GROUPS, PROVISIONING], ids=lambda service: service.principal)
def test_a_load_plan_is_freed_with_its_batch_without_the_garbage_collector(service: Service) -> None:
    plans = []

    def load() -> Any:
        plan = service.load()
        plans.append(weakref.ref(plan))
        return plan

    gc.disable()
    try:
        reply = UnitsReserved(hold_id=uuid4(), account_id=ADA, amount_units=1)
        statements(replace(service, load=load), [reply])
        assert [plan() for plan in plans] == [None]
    finally:
        gc.enable()
