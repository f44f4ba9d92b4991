"""Provisioning's table of contents: which message is handled by what."""

from contracts.provisioning import (
    CancelProvisioning,
    ProvisionAccount,
    ProvisioningCommandMalformed,
    RegisterSubscriber,
)
from contracts.topics import PROVISIONING_COMMANDS, Principal
from services._platform.service import Service
from services.provisioning import handlers
from services.provisioning.store import load

PROVISIONING = Service(
    principal=Principal.PROVISIONING,
    topics=(PROVISIONING_COMMANDS,),
    commands=PROVISIONING_COMMANDS,
    handlers={
        RegisterSubscriber: handlers.register_subscriber,
        ProvisionAccount: handlers.provision_account,
        CancelProvisioning: handlers.cancel_provisioning,
    },
    load=load,
    malformed=ProvisioningCommandMalformed,
)
