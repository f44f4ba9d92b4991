"""The ledger's table of contents: which message is handled by what."""

from contracts.ledger import (
    CaptureHold,
    CreditUnits,
    LedgerCommandMalformed,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
)
from contracts.topics import LEDGER_COMMANDS, Principal
from services._platform.service import Service
from services.ledger import handlers
from services.ledger.store import load

LEDGER = Service(
    principal=Principal.LEDGER,
    topics=(LEDGER_COMMANDS,),
    commands=LEDGER_COMMANDS,
    handlers={
        CreditUnits: handlers.credit_units,
        ReserveUnits: handlers.reserve_units,
        CaptureHold: handlers.capture_hold,
        ReleaseHold: handlers.release_hold,
        PostTransfers: handlers.post_transfers,
    },
    load=load,
    malformed=LedgerCommandMalformed,
)
