"""The ledger's table of contents: which handler handles which message."""

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
from services.chassis.service import Service, contents, handles
from services.ledger import handlers
from services.ledger.messages import CorrectBalance
from services.ledger.store import LoadPlan

LEDGER = Service(
    principal=Principal.LEDGER,
    topics=(
        LEDGER_COMMANDS,
        LEDGER_COMMANDS_FROM_GROUPS,
        LEDGER_COMMANDS_FROM_PROVISIONING,
        PROVISIONING_EVENTS,
    ),
    handlers=contents(
        handles(CreditUnits, handlers.credit_units),
        handles(SpendUnits, handlers.spend_units),
        handles(PostTransfers, handlers.post_transfers),
        handles(ReserveUnits, handlers.reserve_units, once_by="its hold"),
        handles(CaptureHold, handlers.capture_hold),
        handles(ReleaseHold, handlers.release_hold),
        handles(CorrectBalance, handlers.correct_balance),
        # A new account is active, and so is an unknown one: its creation needs no handler.
        handles(AccountExtended, handlers.account_extended),
        handles(AccountExpired, handlers.account_expired),
        handles(AccountClosed, handlers.account_closed),
    ),
    load=LoadPlan,
    malformed=LedgerCommandMalformed,
)
