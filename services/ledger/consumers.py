"""The ledger's table of contents: which message is handled by what."""

from popfax_contracts.ledger import (
    CaptureHold,
    CreditUnits,
    LedgerCommandMalformed,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    SpendUnits,
)
from popfax_contracts.provisioning import AccountClosed, AccountExpired, AccountExtended
from popfax_contracts.topics import (
    LEDGER_COMMANDS,
    LEDGER_COMMANDS_FROM_GROUPS,
    LEDGER_COMMANDS_FROM_PROVISIONING,
    PROVISIONING_EVENTS,
    Principal,
)
from services.chassis.service import Service
from services.ledger import handlers
from services.ledger.messages import CorrectBalance
from services.ledger.store import load

LEDGER = Service(
    principal=Principal.LEDGER,
    topics=(
        LEDGER_COMMANDS,
        LEDGER_COMMANDS_FROM_GROUPS,
        LEDGER_COMMANDS_FROM_PROVISIONING,
        PROVISIONING_EVENTS,
    ),
    handlers={
        CreditUnits: handlers.credit_units,
        SpendUnits: handlers.spend_units,
        PostTransfers: handlers.post_transfers,
        ReserveUnits: handlers.reserve_units,
        CaptureHold: handlers.capture_hold,
        ReleaseHold: handlers.release_hold,
        CorrectBalance: handlers.correct_balance,
        # A new account is active, and so is one of which nothing is known: its beginning needs no handler.
        AccountExtended: handlers.account_extended,
        AccountExpired: handlers.account_expired,
        AccountClosed: handlers.account_closed,
    },
    load=load,
    malformed=LedgerCommandMalformed,
)
