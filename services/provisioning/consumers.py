"""Provisioning's table of contents: which message is handled by what."""

from functools import partial

from popfax_contracts.ledger import HoldCaptured, HoldReleased, UnitsRefused, UnitsReserved
from popfax_contracts.provisioning import (
    AddOptionsPack,
    CancelProvisioning,
    ChangeEmail,
    CloseAccount,
    DisableCallForwarding,
    EnableCallForwarding,
    ExtendAccount,
    ProvisionAccount,
    ProvisioningCommandMalformed,
    RegisterSubscriber,
)
from popfax_contracts.topics import LEDGER_EVENTS, PROVISIONING_COMMANDS, PROVISIONING_COMMANDS_FROM_GROUPS, Principal
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from services.chassis.service import Service
from services.provisioning import handlers
from services.provisioning.sagas import SAGAS
from services.provisioning.store import load
from services.provisioning.timers import ExpiryDue, NumberRested

PROVISIONING = Service(
    principal=Principal.PROVISIONING,
    topics=(PROVISIONING_COMMANDS, PROVISIONING_COMMANDS_FROM_GROUPS, LEDGER_EVENTS),
    handlers={
        # An account begins ...
        RegisterSubscriber: handlers.register_subscriber,
        ProvisionAccount: handlers.provision_account,
        CancelProvisioning: handlers.cancel_provisioning,
        # ... is changed ...
        ExtendAccount: handlers.extend_account,
        AddOptionsPack: handlers.add_options_pack,
        EnableCallForwarding: handlers.enable_call_forwarding,
        DisableCallForwarding: handlers.disable_call_forwarding,
        ChangeEmail: handlers.change_email,
        # ... and ends.
        CloseAccount: handlers.close_account,
        ExpiryDue: handlers.expiry_due,
        NumberRested: handlers.number_rested,
        # The paid-action saga's replies, in the order of its steps ...
        UnitsReserved: SAGAS.reply,
        UnitsRefused: SAGAS.reply,
        HoldCaptured: SAGAS.reply,
        HoldReleased: SAGAS.reply,
        # ... its deadline, and what an operator may ask of it.
        SagaDeadline: SAGAS.deadline,
        RetrySaga: SAGAS.retry,
        CancelSaga: SAGAS.cancel,
    },
    load=partial(load, SAGAS),
    malformed=ProvisioningCommandMalformed,
)
