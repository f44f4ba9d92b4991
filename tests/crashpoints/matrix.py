"""The matrix, as data: each point and each saga's step, killed or stopped, with one replica of each service or two."""

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_type_hints

from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, PayForMember
from popfax_contracts.ledger import CaptureHold, HoldReleased, ReleaseHold, ReserveUnits, UnitsRefused, UnitsReserved
from popfax_contracts.message import Message
from popfax_contracts.notifications import BounceRefused
from popfax_contracts.provisioning import (
    AccountProvisioned,
    AccountRefused,
    AddOptionsPack,
    CancelGrant,
    CancelProvisioning,
    EnableCallForwarding,
    ExtendAccount,
    GrantRefused,
    ProvisionAccount,
)
from popfax_contracts.topics import SERVICES, Principal
from services.chassis.sagas import Saga, SagaDeadline, Step
from services.groups.sagas import ADD_OPTIONS_TO_MEMBER, CREATE_MEMBER_ACCOUNT, EXTEND_MEMBER
from services.groups.sagas import SAGAS as GROUPS_SAGAS
from services.provisioning.sagas import PAID_ACTION
from services.provisioning.sagas import SAGAS as PROVISIONING_SAGAS
from tests.crashpoints.seams import (
    AFTER_COMMIT,
    ANSWER,
    BEFORE_COMMIT,
    BEFORE_HANDLER,
    DATA,
    DELETION,
    MIGRATION,
    OFFSETS,
    PUBLICATION,
)
from tests.crashpoints.stories import STORIES

SIGNALS: Mapping[str, int] = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
REPLICAS = (1, 2)


@dataclass(frozen=True, slots=True)
class Row:
    """A point of one service, passed with one type of message, in one story; of a migration, there is neither."""

    point: str
    service: Principal
    model: type[Message] | None = None
    story: str = ""

    @property
    def what(self) -> str:
        """Its service, and what the point is passed with."""
        with_ = f" {self.model.__name__}" if self.model else ""
        return f"{self.service}{with_}" + (f" · {self.story}" if self.story else "")


@dataclass(frozen=True, slots=True)
class Cell:
    """A row, and what happens there to one of so many replicas."""

    row: Row
    does: str
    replicas: int

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.row.point} · {self.row.what} · {self.does} · {self.replicas}"


# --- the chassis ------------------------------------------------------------------------------------------------------

_TAKES: Mapping[Principal, tuple[type[Message], str]] = {
    Principal.GROUPS: (AccountProvisioned, "account"),
    Principal.LEDGER: (ReserveUnits, "account"),
    Principal.PROVISIONING: (ProvisionAccount, "account"),
    Principal.NOTIFICATIONS: (MemberAccountCreated, "account"),
}
"""What each service takes in, and in which story."""

_SAYS: Mapping[Principal, tuple[type[Message], str]] = {
    Principal.GROUPS: (CaptureHold, "account"),
    Principal.LEDGER: (UnitsReserved, "account"),
    Principal.PROVISIONING: (AccountProvisioned, "account"),
    Principal.NOTIFICATIONS: (BounceRefused, "bounce"),
}
"""What each service publishes."""


def _of_chassis() -> Iterator[Row]:
    for point in (BEFORE_HANDLER, BEFORE_COMMIT, AFTER_COMMIT, OFFSETS):
        yield from (Row(point, service, *_TAKES[service]) for service in SERVICES)
    for point in (PUBLICATION, DELETION):
        yield from (Row(point, service, *_SAYS[service]) for service in SERVICES)
    yield from (Row(point, Principal.NOTIFICATIONS, None, "account") for point in (DATA, ANSWER))
    yield from (Row(MIGRATION, service) for service in SERVICES)


# --- the sagas --------------------------------------------------------------------------------------------------------

STEP_POINT = AFTER_COMMIT
"""Where a step crashes: what it did is committed, nobody has been told, and its message is delivered again."""

_BEGUN_BY: Mapping[str, tuple[type[Message], ...]] = {
    CREATE_MEMBER_ACCOUNT.name: (CreateMemberAccount,),
    EXTEND_MEMBER.name: (PayForMember,),
    ADD_OPTIONS_TO_MEMBER.name: (PayForMember,),
    PAID_ACTION.name: (ExtendAccount, AddOptionsPack, EnableCallForwarding),
}


Models = tuple[type[Message], ...]


def _told_by(
    usual: str, short: str, refused: str, overdue: str, refusing: Models = (), late: Models = ()
) -> dict[type[Message], str]:
    return {
        UnitsRefused: short,
        **dict.fromkeys((HoldReleased, ReleaseHold, *refusing), refused),
        **dict.fromkeys((SagaDeadline, *late), overdue),
        Message: usual,
    }


STORY_OF: Mapping[str, Mapping[type[Message], str]] = {
    CREATE_MEMBER_ACCOUNT.name: _told_by(
        "account",
        "account, units short",
        "account, address taken",
        "account, overdue",
        refusing=(AccountRefused,),
        late=(CancelProvisioning,),
    ),
    EXTEND_MEMBER.name: _told_by(
        "year for a member",
        "year for a member, units short",
        "year for a member, twice",
        "year for a member, overdue",
        refusing=(GrantRefused,),
        late=(CancelGrant,),
    ),
    ADD_OPTIONS_TO_MEMBER.name: _told_by(
        "pack for a member",
        "pack for a member, units short",
        "pack for a member, twice",
        "pack for a member, overdue",
        refusing=(GrantRefused,),
        late=(CancelGrant,),
    ),
    PAID_ACTION.name: {
        **_told_by("renewal", "renewal, units short", "options pack, twice", "renewal, overdue"),
        AddOptionsPack: "options pack",
        EnableCallForwarding: "call forwarding",
    },
}
"""The story in which each saga meets a type of message; all others come in the one under `Message`."""


def steps(saga: Saga, runner: Principal) -> Iterator[tuple[Principal, type[Message]]]:
    """Yield each message that moves a saga, and the service that handles it: its own, or a participant."""
    yield from ((runner, model) for model in _BEGUN_BY[saga.name])
    for step in saga.steps:
        if isinstance(step, Step):
            for ask in (step.ask, step.undo, step.cancel):
                if ask is not None:
                    model = get_type_hints(ask)["return"]
                    yield model.TOPICS[0].service, model
            yield from ((runner, model) for model in (step.done, step.refused, step.undone) if model is not None)
    yield runner, SagaDeadline


def _of_sagas() -> Iterator[Row]:
    for sagas, runner in ((GROUPS_SAGAS, Principal.GROUPS), (PROVISIONING_SAGAS, Principal.PROVISIONING)):
        for saga in sagas.definitions.values():
            stories = STORY_OF[saga.name]
            for service, model in steps(saga, runner):
                yield Row(STEP_POINT, service, model, stories.get(model, stories[Message]))


ROWS: tuple[Row, ...] = tuple(dict.fromkeys([*_of_chassis(), *_of_sagas()]))

CELLS: tuple[Cell, ...] = tuple(Cell(row, does, replicas) for replicas in REPLICAS for row in ROWS for does in SIGNALS)
"""All cells, in the order in which they are tried: those of one replica first."""


def rounds(cells: Iterable[Cell], at_once: int) -> Iterator[Sequence[Cell]]:
    """Put cells together that can be tried side by side: each crashes another service, and one story at most is held.

    All of a round have as many replicas.
    """
    left = list(cells)
    while left:
        taken: list[Cell] = []
        for cell in left:
            if len(taken) < at_once and all(_agree(cell, other) for other in taken):
                taken.append(cell)
        left = [cell for cell in left if cell not in taken]
        yield taken


def _agree(cell: Cell, other: Cell) -> bool:
    both_hold = all(each.row.story and STORIES[each.row.story].holds for each in (cell, other))
    alone = MIGRATION in (cell.row.point, other.row.point)
    return cell.row.service != other.row.service and cell.replicas == other.replicas and not (both_hold or alone)
