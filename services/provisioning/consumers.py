"""Provisioning's table of contents: which handler handles which message."""

from popfax_contracts.ledger import HoldCaptured, HoldReleased, UnitsRefused, UnitsReserved
from popfax_contracts.provisioning import (
    AddOptionsPack,
    CancelGrant,
    CancelProvisioning,
    ChangeEmail,
    ChangeTimeZone,
    CloseAccount,
    DisableCallForwarding,
    EnableCallForwarding,
    ExtendAccount,
    GrantPurchase,
    ProvisionAccount,
    ProvisioningCommandMalformed,
    RegisterSubscriber,
)
from popfax_contracts.topics import LEDGER_EVENTS, PROVISIONING_COMMANDS, PROVISIONING_COMMANDS_FROM_GROUPS, Principal
from services.chassis.deadlines import deadlines
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from services.chassis.service import Service, contents, handles
from services.chassis.waiting import open_sagas
from services.provisioning import handlers, tables
from services.provisioning.sagas import SAGAS
from services.provisioning.store import LoadPlan
from services.provisioning.timers import EXPIRY, ExpiryDue, NumberRested

PROVISIONING = Service(
    principal=Principal.PROVISIONING,
    topics=(PROVISIONING_COMMANDS, PROVISIONING_COMMANDS_FROM_GROUPS, LEDGER_EVENTS),
    handlers=contents(
        # An account begins ...
        handles(RegisterSubscriber, handlers.register_subscriber),
        handles(ProvisionAccount, handlers.provision_account, once_by="its request"),
        handles(CancelProvisioning, handlers.cancel_provisioning, once_by="its request"),
        # ... is changed ...
        handles(ExtendAccount, handlers.extend_account),
        handles(AddOptionsPack, handlers.add_options_pack),
        handles(EnableCallForwarding, handlers.enable_call_forwarding),
        handles(GrantPurchase, handlers.grant_purchase, once_by="its grant"),
        handles(CancelGrant, handlers.cancel_grant, once_by="its grant"),
        handles(DisableCallForwarding, handlers.disable_call_forwarding),
        handles(ChangeEmail, handlers.change_email),
        handles(ChangeTimeZone, handlers.change_time_zone),
        # ... and ends.
        handles(CloseAccount, handlers.close_account),
        handles(ExpiryDue, handlers.expiry_due),
        handles(NumberRested, handlers.number_rested),
        # The paid-action saga's replies, in the order of its steps ...
        handles(UnitsReserved, SAGAS.reply, once_by="its saga"),
        handles(UnitsRefused, SAGAS.reply, once_by="its saga"),
        handles(HoldCaptured, SAGAS.reply, once_by="its saga"),
        handles(HoldReleased, SAGAS.reply, once_by="its saga"),
        # ... its deadline, and an operator's interventions.
        handles(SagaDeadline, SAGAS.deadline),
        handles(RetrySaga, SAGAS.retry),
        handles(CancelSaga, SAGAS.cancel),
    ),
    load=LoadPlan,
    malformed=ProvisioningCommandMalformed,
    for_requester=frozenset({UnitsReserved, UnitsRefused, HoldCaptured, HoldReleased}),
    alarms=(*deadlines(SAGAS, tables.SAGAS), EXPIRY),
    sagas=tuple(SAGAS.definitions),
    waits=(open_sagas(tables.sagas),),
)
