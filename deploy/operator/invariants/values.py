"""Values of fixed sets: states, kinds, codes. An unknown one is reported, and nothing fails because of it."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, get_args

from deploy.operator.invariants.invariant import Invariant, Violation
from deploy.operator.invariants.rows import distinct
from deploy.operator.invariants.snapshot import Snapshot
from popfax_contracts.codes import GroupsCode, LedgerCode, ProvisioningCode
from popfax_contracts.fields import Language
from popfax_contracts.groups import TransferUnits
from popfax_contracts.provisioning import GrantedAction
from popfax_contracts.topics import TOPICS
from services.chassis.messages import TIMERS
from services.chassis.sagas import Status
from services.groups import domain as groups
from services.groups.commands import POSTABLE
from services.groups.consumers import GROUPS
from services.ledger import domain as ledger
from services.ledger.consumers import LEDGER
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.domain import MailState, Template
from services.provisioning import domain as provisioning
from services.provisioning.consumers import PROVISIONING
from services.provisioning.store import ACTIONS

_LANGUAGES = {*Language}
_TOPICS = {TIMERS, *(topic.name for topic in TOPICS)}
_GRANTED = get_args(GrantedAction)
_MODES = set(TransferUnits.model_fields["mode"].annotation.__args__)  # type: ignore[union-attr]


def check_values(snapshot: Snapshot) -> Iterator[Violation]:
    """Check every column that holds one of a set of words. Empty values are left to other checks."""
    for table, rows, columns in _words(snapshot):
        for column, known in columns.items():
            for value in distinct(rows, column):
                if value is not None and value not in known:
                    yield from _holders(table, rows, column, value)


def _holders(table: str, rows: Iterable[Any], column: str, value: Any) -> Iterator[Violation]:
    """Report the first three rows that have a value, with the number of all."""
    found = [row.id for row in rows if getattr(row, column) == value and hasattr(row, "id")]
    for id_ in found[:3]:
        yield Violation(Invariant.UNKNOWN_VALUE, str(id_), f"{table}.{column} is {str(value)!r}: {len(found)} rows")


_Words = tuple[str, Iterable[Any], Mapping[str, Collection[str]]]


def _words(snapshot: Snapshot) -> Iterator[_Words]:
    own, of = snapshot.ledger, snapshot.groups
    yield "ledger.accounts", own.accounts, {"state": {*ledger.AccountState}}
    yield "ledger.holds", own.holds, {"state": {*ledger.HoldState}, "code": {*LedgerCode}}
    yield "ledger.transfers", own.transfers, {"kind": {*ledger.TransferKind}, "code": {*LedgerCode}}
    yield "ledger.corrections", own.corrections, {"code": {*LedgerCode}}
    yield "groups.sagas", of.sagas, {"status": {*Status}, "code": {*GroupsCode}}
    yield "groups.subscribers", of.subscribers, {"state": {*groups.AccountState}, "language": _LANGUAGES}
    yield "groups.invitations", of.invitations, {"state": {*groups.InvitationState}}
    yield (
        "groups.transfers",
        of.transfers,
        {"state": {*groups.TransferState}, "mode": _MODES, "code": {*TransferUnits.CODES}},
    )
    kinds = {"state": {*groups.OrderState}, "kind": {*groups.OrderKind}}
    yield "groups.standing_orders", of.orders, kinds
    yield "groups.history", of.history, {"kind": {*groups.Kind}}
    types = {model.TYPE for model in POSTABLE.values()}
    yield "groups.commands", of.commands, {"state": {*groups.CommandState}, "type": types}
    yield from _of_provisioning(snapshot)
    mails = {"template": {*Template}, "state": {*MailState}}
    yield "notifications.mails", snapshot.notifications.mails, mails
    yield "notifications.people", snapshot.notifications.people, {"language": _LANGUAGES}
    for service, tables in (
        (LEDGER, own),
        (GROUPS, of),
        (PROVISIONING, snapshot.provisioning),
        (NOTIFICATIONS, snapshot.notifications),
    ):
        name = service.principal.value
        yield f"{name}.timers", tables.timers, {"type": {model.TYPE for model in service.handlers}}
        yield f"{name}.parked", tables.parked, {"topic": _TOPICS}


def _of_provisioning(snapshot: Snapshot) -> Iterator[_Words]:
    own = snapshot.provisioning
    yield "provisioning.sagas", own.sagas, {"status": {*Status}, "code": {*ProvisioningCode}}
    yield "provisioning.subscribers", own.subscribers, {"state": {*provisioning.AccountState}, "language": _LANGUAGES}
    yield "provisioning.requests", own.requests, {"code": {*ProvisioningCode}}
    yield "provisioning.purchases", own.purchases, {"action": set(ACTIONS.values()), "code": {*ProvisioningCode}}
    yield "provisioning.grants", own.grants, {"action": set(_GRANTED), "code": {*ProvisioningCode}}
    yield "provisioning.fax_numbers", own.fax_numbers, {"state": {*provisioning.NumberState}}
