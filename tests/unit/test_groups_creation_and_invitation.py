"""An account that is just being paid can be invited already: who has accepted is a member once, not twice."""

from dataclasses import replace
from typing import Any

from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.ledger import HoldCaptured
from popfax_contracts.message import group_of
from services.chassis.sagas import SagaRow, Status
from services.groups.consumers import GROUPS
from services.groups.domain import HistoryEntry, Kind, Membership, account_of, history_of_membership, membership_of
from tests.unit.given import NOW, given, id_of

OWNER, SAGA = id_of("owner"), id_of("saga")
GROUP, MEMBER = group_of(OWNER), account_of(SAGA)
MEMBERSHIP = membership_of(GROUP, MEMBER)


def test_a_created_account_that_has_accepted_an_invitation_already_stays_the_member_that_it_is() -> None:
    data = {"group_id": str(GROUP), "owner_id": str(OWNER), "plan": "send_only", "price_units": 20}
    saga = SagaRow(
        SAGA,
        "create-member-account",
        Status.RUNNING,
        "capture hold",
        None,
        data,
        "correlation",
        SAGA,
        OWNER,
        NOW,
        NOW,
        None,
        (),
    )
    member = Membership(MEMBERSHIP, GROUP, OWNER, MEMBER, True, 1, None, NOW, None)
    told: dict[str, Any] = {"group_id": GROUP, "at": NOW, "actor_id": OWNER, "code": None, "ended_at": None}
    creation = HistoryEntry(
        id=SAGA, kind=Kind.ACCOUNT, member_id=None, reference_id=SAGA, units=20, outcome="pending", **told
    )
    joined = HistoryEntry(
        id=history_of_membership(MEMBERSHIP, 1),
        kind=Kind.MEMBERSHIP,
        member_id=MEMBER,
        reference_id=MEMBERSHIP,
        units=None,
        outcome="active",
        **told,
    )
    scene = given(GROUPS, saga, member, creation, joined).when(
        HoldCaptured(hold_id=SAGA, account_id=OWNER, amount_units=20)
    )
    paid = {"plan": "send_only", "price_units": 20, "request_id": SAGA}
    scene.then(MemberAccountCreated(group_id=GROUP, owner_id=OWNER, member_id=MEMBER, **paid))
    rows = scene.rows()
    assert member in rows
    assert joined in rows
    assert replace(creation, outcome="created", member_id=MEMBER, ended_at=NOW) in rows
