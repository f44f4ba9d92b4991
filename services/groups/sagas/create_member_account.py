"""The account-creation saga: an owner creates a member's account and pays for it with their own Pop units.

Never an account without its payment, never a payment without its account: the units are held before the account is
asked for, captured once it is there, and released if it is refused. The hold's id and the request's id are the saga's.
"""

from datetime import timedelta
from uuid import UUID

from popfax_contracts.codes import GroupsCode
from popfax_contracts.fields import Language
from popfax_contracts.groups import CreateMemberAccount, MemberAccountCreated, MemberAccountRefused
from popfax_contracts.ledger import HoldCaptured, HoldReleased, UnitsRefused, UnitsReserved
from popfax_contracts.provisioning import AccountProvisioned, AccountRefused, CancelProvisioning, ProvisionAccount
from services.chassis.messages import Outcome
from services.chassis.sagas import Saga, SagaRow, Step
from services.chassis.service import Moment, needs
from services.groups import transitions
from services.groups.domain import account_of, membership_of
from services.groups.sagas.owner_pays import capture_hold, owner, parsed, release_hold, reserve_units
from services.groups.store import LoadPlan, Roster


def provision_account(saga: SagaRow) -> ProvisionAccount:
    """Create the account that the hold pays for."""
    data = saga.data
    return ProvisionAccount(
        request_id=saga.id,
        account_id=account_of(saga.id),
        plan=data["plan"],
        price_units=data["price_units"],
        email=data["email"],
        first_name=data["first_name"],
        last_name=data["last_name"],
        language=Language(data["language"]),
    )


def cancel_provisioning(saga: SagaRow) -> CancelProvisioning:
    """Call the account off; the answer says whether it had already been created."""
    return CancelProvisioning(request_id=saga.id, account_id=account_of(saga.id))


def _line(load: LoadPlan, saga: SagaRow) -> None:
    load.history.add(saga.id)


def _membership(load: LoadPlan, saga: SagaRow) -> None:
    group_id, member_id = group(saga), account_of(saga.id)
    _line(load, saga)
    load.groups.add(group_id)
    load.subscribers.add(member_id)
    load.memberships.add(membership_of(group_id, member_id))


@needs(_membership)
def add_membership(state: Roster, saga: SagaRow, moment: Moment) -> Outcome:
    """Make the holder of the new account, which is paid for, a member."""
    group_id, owner_id, member_id = group(saga), owner(saga), account_of(saga.id)
    transitions.end_creation(state, saga.id, member_id, None, moment)
    created = MemberAccountCreated(
        group_id=group_id,
        owner_id=owner_id,
        member_id=member_id,
        plan=saga.data["plan"],
        price_units=saga.data["price_units"],
        request_id=saga.id,
    )
    return [*transitions.join(state, group_id, owner_id, member_id, "account_created", saga.actor, moment), created]


@needs(_line)
def refuse(state: Roster, saga: SagaRow, moment: Moment) -> Outcome:
    """Record and announce that nothing was created or paid."""
    transitions.end_creation(state, saga.id, None, saga.code, moment)
    return [
        MemberAccountRefused(
            group_id=group(saga),
            code=saga.code or GroupsCode.CANCELLED,
            command_type=CreateMemberAccount.TYPE,
        )
    ]


def group(saga: SagaRow) -> UUID:
    """Return the owner's group."""
    return parsed(saga.data["group_id"])


CREATE_MEMBER_ACCOUNT = Saga(
    name="create-member-account",
    steps=(
        Step(
            "reserve units",
            ask=reserve_units,
            reference="hold_id",
            done=UnitsReserved,
            refused=UnitsRefused,
            undo=release_hold,
            undone=HoldReleased,
        ),
        Step(
            "provision account",
            ask=provision_account,
            reference="request_id",
            done=AccountProvisioned,
            refused=AccountRefused,
            cancel=cancel_provisioning,  # the pivot: it is created, or it is refused
        ),
        Step("capture hold", ask=capture_hold, reference="hold_id", done=HoldCaptured),
    ),
    completed=add_membership,
    refused=refuse,
    deadline=timedelta(minutes=5),
    forget=frozenset({"email", "first_name", "last_name", "language"}),
)
