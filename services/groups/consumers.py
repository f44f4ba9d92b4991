"""Groups' table of contents: which message is handled by what."""

from functools import partial

from contracts.groups import CreateMemberAccount, GroupsCommandMalformed
from contracts.ledger import HoldCaptured, HoldReleased, UnitsRefused, UnitsReserved
from contracts.provisioning import AccountProvisioned, AccountRefused, PersonRecorded, PlanPublished
from contracts.topics import (
    GROUPS_COMMANDS,
    LEDGER_EVENTS,
    PROVISIONING_DIRECTORY,
    PROVISIONING_EVENTS,
    PROVISIONING_PLANS,
    Principal,
)
from services._platform.sagas import CancelSaga, RetrySaga, SagaDeadline
from services._platform.service import Service
from services.groups import handlers
from services.groups.sagas import SAGAS
from services.groups.store import load

GROUPS = Service(
    principal=Principal.GROUPS,
    topics=(GROUPS_COMMANDS, LEDGER_EVENTS, PROVISIONING_EVENTS, PROVISIONING_PLANS, PROVISIONING_DIRECTORY),
    commands=GROUPS_COMMANDS,
    handlers={
        CreateMemberAccount: handlers.create_member_account,
        PersonRecorded: handlers.person_recorded,
        PlanPublished: handlers.plan_published,
        # The saga's replies, in the order of its steps ...
        UnitsReserved: SAGAS.reply,
        UnitsRefused: SAGAS.reply,
        AccountProvisioned: SAGAS.reply,
        AccountRefused: SAGAS.reply,
        HoldCaptured: SAGAS.reply,
        HoldReleased: SAGAS.reply,
        # ... its deadline, and what an operator may ask of it.
        SagaDeadline: SAGAS.deadline,
        RetrySaga: SAGAS.retry,
        CancelSaga: SAGAS.cancel,
    },
    load=partial(load, SAGAS),
    malformed=GroupsCommandMalformed,
)
