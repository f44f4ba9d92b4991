"""What the ledger does with each command: checks first, in a fixed order, then writes.

The order is always: is this id known (the same content gets the same outcome again, other content is a conflict), then
are the units there.
"""

from hashlib import blake2b

from contracts.ledger import (
    CaptureHold,
    CaptureRefused,
    CreditRefused,
    CreditUnits,
    HoldCaptured,
    HoldReleased,
    Leg,
    PostedLeg,
    PostTransfers,
    ReleaseHold,
    ReleaseRefused,
    ReserveUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsCredited,
    UnitsRefused,
    UnitsReserved,
)
from contracts.message import Command
from services._platform.messages import Incoming, Outcome
from services._platform.service import Moment
from services.ledger.domain import (
    SALES,
    SUBSCRIPTIONS,
    Account,
    Code,
    Hold,
    HoldState,
    Transfer,
    entry,
    held,
    moved,
    own_entry,
)
from services.ledger.store import Books


def credit_units(books: Books, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
    """Post bought units from Popfax's sales to the account."""
    command, content = message.body, _content(message.body)
    known = books.transfers.get(command.credit_id)
    if known is not None and known.content != content:
        return [
            CreditRefused(
                credit_id=command.credit_id,
                account_id=command.account_id,
                code=Code.ID_CONFLICT,
                command_type=command.TYPE,
            )
        ]
    if known is None:
        amount = command.amount_units
        before = books.account(command.account_id)
        after = moved(before, amount)
        books.accounts.put(after)
        books.entries.add(entry(command.credit_id, before, after, moment.now))
        books.entries.add(own_entry(command.credit_id, SALES, -amount, moment.now))
        books.transfers.put(Transfer(command.credit_id, "credit", SALES, content, None, (amount,), moment.now))
    return [
        UnitsCredited(credit_id=command.credit_id, account_id=command.account_id, amount_units=command.amount_units)
    ]


def reserve_units(books: Books, message: Incoming[ReserveUnits], moment: Moment) -> Outcome:
    """Hold units back, if they are available."""
    command = message.body
    hold = books.holds.get(command.hold_id)
    if hold is None:
        account = books.account(command.account_id)
        enough = account.available_units >= command.amount_units
        state = HoldState.OPEN if enough else HoldState.REFUSED
        hold = Hold(command.hold_id, command.account_id, command.amount_units, state, moment.now, None)
        books.holds.put(hold)
        if enough:
            books.accounts.put(held(account, command.amount_units))
    code = _why_not_reserved(hold, command)
    if code is not None:
        return [
            UnitsRefused(hold_id=command.hold_id, account_id=command.account_id, code=code, command_type=command.TYPE)
        ]
    return [UnitsReserved(hold_id=command.hold_id, account_id=command.account_id, amount_units=command.amount_units)]


def _why_not_reserved(hold: Hold, command: ReserveUnits) -> Code | None:
    if hold.state is HoldState.BURNED:
        return Code.HOLD_CANCELLED
    if (hold.account_id, hold.amount_units) != (command.account_id, command.amount_units):
        return Code.ID_CONFLICT
    return Code.UNITS_SHORT if hold.state is HoldState.REFUSED else None


def capture_hold(books: Books, message: Incoming[CaptureHold], moment: Moment) -> Outcome:
    """Turn an open hold into a payment to Popfax. A captured hold is its own transfer: the entries carry its id."""
    command = message.body
    hold = books.holds.get(command.hold_id)
    if hold is None or hold.account_id != command.account_id or hold.state not in (HoldState.OPEN, HoldState.CAPTURED):
        return [
            CaptureRefused(
                hold_id=command.hold_id,
                account_id=command.account_id,
                code=Code.HOLD_NOT_OPEN,
                command_type=command.TYPE,
            )
        ]
    if hold.state is HoldState.OPEN:
        before = books.account(hold.account_id)
        after = moved(held(before, -hold.amount_units), -hold.amount_units)
        books.accounts.put(after)
        books.entries.add(entry(hold.id, before, after, moment.now))
        books.entries.add(own_entry(hold.id, SUBSCRIPTIONS, hold.amount_units, moment.now))
        books.holds.put(_closed(hold, HoldState.CAPTURED, moment))
    return [HoldCaptured(hold_id=hold.id, account_id=hold.account_id, amount_units=hold.amount_units)]


def release_hold(books: Books, message: Incoming[ReleaseHold], moment: Moment) -> Outcome:
    """Give held units back. It may come before the reservation: then the hold's id is burned."""
    command = message.body
    hold = books.holds.get(command.hold_id)
    if hold is not None and (code := _why_not_released(hold, command)) is not None:
        return [
            ReleaseRefused(hold_id=command.hold_id, account_id=command.account_id, code=code, command_type=command.TYPE)
        ]
    if hold is None:
        hold = Hold(command.hold_id, command.account_id, 0, HoldState.BURNED, moment.now, moment.now)
        books.holds.put(hold)
    if hold.state is HoldState.OPEN:
        books.accounts.put(held(books.account(hold.account_id), -hold.amount_units))
        hold = _closed(hold, HoldState.RELEASED, moment)
        books.holds.put(hold)
    given_back = hold.amount_units if hold.state is HoldState.RELEASED else 0
    return [HoldReleased(hold_id=hold.id, account_id=command.account_id, amount_units=given_back)]


def _why_not_released(hold: Hold, command: ReleaseHold) -> Code | None:
    if hold.account_id != command.account_id:
        return Code.ID_CONFLICT
    return Code.HOLD_CAPTURED if hold.state is HoldState.CAPTURED else None


def post_transfers(books: Books, message: Incoming[PostTransfers], moment: Moment) -> Outcome:
    """Move units from one account to one or many, all or nothing."""
    command, content = message.body, _content(message.body)
    known = books.transfers.get(command.transfer_id)
    if known is not None and known.content != content:
        return [_transfers_refused(command, Code.ID_CONFLICT)]
    if known is None:
        known = _post(books, command, content, moment)
        books.transfers.put(known)
    if known.code is not None:
        return [_transfers_refused(command, Code(known.code))]
    posted = zip(command.legs, known.amounts_units, strict=True)
    return [
        TransfersPosted(
            transfer_id=command.transfer_id,
            source_id=command.source_id,
            legs=tuple(PostedLeg(account_id=leg.account_id, amount_units=amount) for leg, amount in posted),
            total_units=sum(known.amounts_units),
        )
    ]


def _post(books: Books, command: PostTransfers, content: bytes, moment: Moment) -> Transfer:
    """Write the entries of a transfer if the source can pay all of it; give the transfer either way."""
    targets = [books.account(leg.account_id) for leg in command.legs]
    amounts = tuple(_amount(leg, target) for leg, target in zip(command.legs, targets, strict=True))
    source, total = books.account(command.source_id), sum(amounts)
    short = source.available_units < total
    if not short and total > 0:
        paid = moved(source, -total)
        books.accounts.put(paid)
        books.entries.add(entry(command.transfer_id, source, paid, moment.now))
        for target, amount in zip(targets, amounts, strict=True):
            if amount:
                richer = moved(target, amount)
                books.accounts.put(richer)
                books.entries.add(entry(command.transfer_id, target, richer, moment.now))
    code = Code.UNITS_SHORT.value if short else None
    return Transfer(command.transfer_id, "transfer", command.source_id, content, code, amounts, moment.now)


def _amount(leg: Leg, target: Account) -> int:
    if leg.top_up_to_units is not None:
        return max(0, leg.top_up_to_units - target.available_units)
    assert leg.amount_units is not None, "a leg has one of both: its model checks it"
    return leg.amount_units


def _transfers_refused(command: PostTransfers, code: Code) -> TransfersRefused:
    return TransfersRefused(
        transfer_id=command.transfer_id, source_id=command.source_id, code=code, command_type=command.TYPE
    )


def _closed(hold: Hold, state: HoldState, moment: Moment) -> Hold:
    return Hold(hold.id, hold.account_id, hold.amount_units, state, hold.opened_at, moment.now)


def _content(command: Command) -> bytes:
    """Give what tells two commands with the same id apart."""
    return blake2b(command.to_json(), digest_size=16).digest()
