"""What the ledger does with each message: checks first, in a fixed order, then writes.

The order is always: is the id known (the same content gets the same outcome again, other content is a conflict), may
the requester do this, may the accounts, are the units there. Every decision about an id is recorded, refusals included,
except that the requester had no right: otherwise a stranger could burn the holder's id.

Every answer is followed by a `BalanceChanged` for each account that changed.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

from popfax_contracts.codes import LedgerCode
from popfax_contracts.ledger import (
    BalanceChanged,
    BalanceCorrected,
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
    SpendRefused,
    SpendUnits,
    TransfersPosted,
    TransfersRefused,
    UnitsCredited,
    UnitsRefused,
    UnitsReserved,
    UnitsSpent,
)
from popfax_contracts.message import Message
from popfax_contracts.provisioning import AccountClosed, AccountExpired, AccountExtended
from services.chassis.messages import Incoming, Outcome
from services.chassis.rows import replace
from services.chassis.service import Moment, needs
from services.ledger.domain import (
    CONSUMPTION,
    CORRECTIONS,
    OWN_ACCOUNTS,
    SALES,
    SUBSCRIPTIONS,
    Account,
    AccountState,
    Correction,
    Hold,
    HoldState,
    Transfer,
    TransferKind,
    captured,
    entry,
    held,
    in_state,
    moved,
    own_entry,
    why_barred,
    why_not_paid,
)
from services.ledger.messages import CorrectBalance
from services.ledger.store import Books, LoadPlan


def _credit(load: LoadPlan, message: Incoming[CreditUnits]) -> None:
    load.accounts.add(message.body.account_id)
    load.movements.add(message.body.credit_id)


@needs(_credit)
def credit_units(books: Books, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
    """Post bought units from Popfax's sales to the account."""
    command, content = message.body, _content(message.body)
    known = books.transfers.find(command.credit_id)
    if books.is_hold(command.credit_id) or (known is not None and known.content != content):
        return [_credit_refused(command, LedgerCode.ID_CONFLICT)]
    changed: Outcome = ()
    if known is None:
        amount, account = command.amount_units, books.account(command.account_id)
        code = LedgerCode.ACCOUNT_CLOSED if account.state is AccountState.CLOSED else None
        known = Transfer(command.credit_id, TransferKind.CREDIT, SALES, content, _text(code), (amount,), moment.now)
        books.transfers.put(known.sealed())
        if code is None:
            changed = _post_own(books, known.id, account, amount, SALES, moment)
    if known.code is not None:
        return [_credit_refused(command, LedgerCode(known.code))]
    answer = UnitsCredited(
        credit_id=command.credit_id, account_id=command.account_id, amount_units=command.amount_units
    )
    return [answer, *changed]


def _credit_refused(command: CreditUnits, code: LedgerCode) -> CreditRefused:
    return CreditRefused(
        credit_id=command.credit_id, account_id=command.account_id, code=code, command_type=command.TYPE
    )


def _spending(load: LoadPlan, message: Incoming[SpendUnits]) -> None:
    load.accounts.add(message.body.account_id)
    load.movements.add(message.body.spend_id)


@needs(_spending)
def spend_units(books: Books, message: Incoming[SpendUnits], moment: Moment) -> Outcome:
    """Post units from the account to Popfax's consumption, for what its holder used."""
    command, content = message.body, _content(message.body)
    known = books.transfers.find(command.spend_id)
    if books.is_hold(command.spend_id) or (known is not None and known.content != content):
        return [_spend_refused(command, LedgerCode.ID_CONFLICT)]
    if message.actor != command.account_id:
        return [_spend_refused(command, LedgerCode.NOT_HOLDER)]
    changed: Outcome = ()
    if known is None:
        amount, account = command.amount_units, books.account(command.account_id)
        code = why_not_paid(account, amount)
        known = Transfer(
            command.spend_id,
            TransferKind.SPEND,
            account.id,
            content,
            _text(code),
            (amount,),
            moment.now,
            command.reference,
        )
        books.transfers.put(known.sealed())
        if code is None:
            changed = _post_own(books, known.id, account, -amount, CONSUMPTION, moment)
    if known.code is not None:
        return [_spend_refused(command, LedgerCode(known.code))]
    answer = UnitsSpent(
        spend_id=command.spend_id,
        account_id=command.account_id,
        amount_units=command.amount_units,
        purpose=command.purpose,
        reference=command.reference,
    )
    return [answer, *changed]


def _spend_refused(command: SpendUnits, code: LedgerCode) -> SpendRefused:
    return SpendRefused(spend_id=command.spend_id, account_id=command.account_id, code=code, command_type=command.TYPE)


def _hold(load: LoadPlan, message: Incoming[ReserveUnits | CaptureHold | ReleaseHold]) -> None:
    load.accounts.add(message.body.account_id)
    load.movements.add(message.body.hold_id)


@needs(_hold)
def reserve_units(books: Books, message: Incoming[ReserveUnits], moment: Moment) -> Outcome:
    """Hold units back, if they are available."""
    command = message.body
    hold = books.holds.find(command.hold_id)
    changed: Outcome = ()
    if books.is_transfer(command.hold_id):
        return [_units_refused(command, LedgerCode.ID_CONFLICT)]
    if hold is None:
        account = books.account(command.account_id)
        code = why_not_paid(account, command.amount_units, command.extends)
        hold = _reservation(message, code, moment)
        books.holds.put(hold)
        if code is None:
            changed = [_changed(books, held(account, command.amount_units))]
    code = _why_not_reserved(hold, message)
    if code is not None:
        return [_units_refused(command, code)]
    answer = UnitsReserved(hold_id=command.hold_id, account_id=command.account_id, amount_units=command.amount_units)
    return [answer, *changed]


def _units_refused(command: ReserveUnits, code: LedgerCode) -> UnitsRefused:
    return UnitsRefused(hold_id=command.hold_id, account_id=command.account_id, code=code, command_type=command.TYPE)


def _reservation(message: Incoming[ReserveUnits], code: LedgerCode | None, moment: Moment) -> Hold:
    command, holder = message.body, message.writer.value
    state = HoldState.OPEN if code is None else HoldState.REFUSED
    id_, account_id, units = command.hold_id, command.account_id, command.amount_units
    return Hold(id_, account_id, units, state, moment.now, None, command.extends, _text(code), holder)


def _why_not_reserved(hold: Hold, message: Incoming[ReserveUnits]) -> LedgerCode | None:
    command = message.body
    if not hold.is_of(message.writer):
        return LedgerCode.ID_CONFLICT
    if hold.state is HoldState.BURNED:
        return LedgerCode.HOLD_CANCELLED
    asked = (command.account_id, command.amount_units, command.extends)
    if (hold.account_id, hold.amount_units, hold.extends) != asked:
        return LedgerCode.ID_CONFLICT
    return None if hold.code is None else LedgerCode(hold.code)


@needs(_hold)
def capture_hold(books: Books, message: Incoming[CaptureHold], moment: Moment) -> Outcome:
    """Turn an open hold into a payment to Popfax. A captured hold is its own transfer: the entries carry its id."""
    command = message.body
    hold = books.holds.find(command.hold_id)
    if hold is None or not _is_capturable(hold, message):
        return [
            CaptureRefused(
                hold_id=command.hold_id,
                account_id=command.account_id,
                code=LedgerCode.HOLD_NOT_OPEN,
                command_type=command.TYPE,
            )
        ]
    changed: Outcome = ()
    if hold.state is HoldState.OPEN:
        before = books.account(hold.account_id)
        after = captured(before, hold.amount_units)
        books.entries.add(entry(hold.id, before, after, moment.now))
        books.entries.add(own_entry(hold.id, SUBSCRIPTIONS, hold.amount_units, moment.now))
        books.holds.put(_closed(hold, HoldState.CAPTURED, moment))
        changed = [_changed(books, after)]
    answer = HoldCaptured(
        hold_id=hold.id,
        account_id=hold.account_id,
        amount_units=hold.amount_units,
        version=_version(books, hold.account_id),
    )
    return [answer, *changed]


def _is_capturable(hold: Hold, message: Incoming[CaptureHold]) -> bool:
    known = hold.account_id == message.body.account_id and hold.is_of(message.writer)
    return known and hold.state in (HoldState.OPEN, HoldState.CAPTURED)


@needs(_hold)
def release_hold(books: Books, message: Incoming[ReleaseHold], moment: Moment) -> Outcome:
    """Release held units. If it comes before the reservation, the hold's id is burned."""
    command = message.body
    hold = books.holds.find(command.hold_id)
    code = _why_not_released(books, hold, message)
    if code is not None:
        return [
            ReleaseRefused(hold_id=command.hold_id, account_id=command.account_id, code=code, command_type=command.TYPE)
        ]
    changed: Outcome = ()
    if hold is None:
        holder = message.writer.value
        hold = Hold(command.hold_id, command.account_id, 0, HoldState.BURNED, moment.now, moment.now, holder=holder)
        books.holds.put(hold)
    if hold.state is HoldState.OPEN:
        changed = [_changed(books, held(books.account(hold.account_id), -hold.amount_units))]
        hold = _closed(hold, HoldState.RELEASED, moment)
        books.holds.put(hold)
    given_back = hold.amount_units if hold.state is HoldState.RELEASED else 0
    answer = HoldReleased(
        hold_id=hold.id,
        account_id=command.account_id,
        amount_units=given_back,
        version=_version(books, command.account_id),
    )
    return [answer, *changed]


def _why_not_released(books: Books, hold: Hold | None, message: Incoming[ReleaseHold]) -> LedgerCode | None:
    if hold is None:
        return LedgerCode.ID_CONFLICT if books.is_transfer(message.body.hold_id) else None
    if hold.account_id != message.body.account_id or not hold.is_of(message.writer):
        return LedgerCode.ID_CONFLICT
    return LedgerCode.HOLD_CAPTURED if hold.state is HoldState.CAPTURED else None


def _closed(hold: Hold, state: HoldState, moment: Moment) -> Hold:
    return replace(hold, state=state, closed_at=moment.now)


def _transfers(load: LoadPlan, message: Incoming[PostTransfers]) -> None:
    command = message.body
    load.accounts.add(command.source_id)
    load.accounts.update(leg.account_id for leg in command.legs)
    load.movements.add(command.transfer_id)


@needs(_transfers)
def post_transfers(books: Books, message: Incoming[PostTransfers], moment: Moment) -> Outcome:
    """Move units from one account to one or many, all or nothing."""
    command, content = message.body, _content(message.body)
    known = books.transfers.find(command.transfer_id)
    if books.is_hold(command.transfer_id) or (known is not None and known.content != content):
        return [_transfers_refused(command, LedgerCode.ID_CONFLICT)]
    if message.actor != command.source_id:
        return [_transfers_refused(command, LedgerCode.NOT_HOLDER)]
    changed: Outcome = ()
    if known is None:
        known, changed = _post(books, command, content, moment)
    if known.code is not None:
        return [_transfers_refused(command, LedgerCode(known.code))]
    answer = TransfersPosted(
        transfer_id=command.transfer_id,
        source_id=command.source_id,
        legs=tuple(
            PostedLeg(account_id=id_, amount_units=amount, version=_version(books, id_))
            for id_, amount in zip((leg.account_id for leg in command.legs), known.amounts_units, strict=True)
        ),
        total_units=sum(known.amounts_units),
        version=_version(books, command.source_id),
    )
    return [answer, *changed]


def _post(books: Books, command: PostTransfers, content: bytes, moment: Moment) -> tuple[Transfer, Outcome]:
    """Decide a transfer, and write its entries unless it is refused. Return it, and the accounts that changed."""
    source, targets = books.account(command.source_id), [books.account(leg.account_id) for leg in command.legs]
    amounts = tuple(_amount(leg, target) for leg, target in zip(command.legs, targets, strict=True))
    code, total = _why_not_posted(source, targets, sum(amounts)), sum(amounts)
    transfer = Transfer(
        command.transfer_id,
        TransferKind.TRANSFER,
        source.id,
        content,
        _text(code),
        amounts,
        moment.now,
        command.reference,
    )
    books.transfers.put(transfer.sealed())
    if code is not None or total == 0:
        return transfer, ()
    gains = [(target, amount) for target, amount in zip(targets, amounts, strict=True) if amount]
    return transfer, [_post_one(books, transfer.id, each, units, moment) for each, units in [(source, -total), *gains]]


def _amount(leg: Leg, target: Account) -> int:
    if leg.top_up_to_units is not None:
        return max(0, leg.top_up_to_units - target.available_units)
    assert leg.amount_units is not None, "a leg has one of both: its model checks it"
    return leg.amount_units


def _why_not_posted(source: Account, targets: Iterable[Account], total_units: int) -> LedgerCode | None:
    barred = why_barred(source)
    if barred is None and any(target.state is AccountState.CLOSED for target in targets):
        return LedgerCode.TARGET_CLOSED
    return barred or why_not_paid(source, total_units)


def _transfers_refused(command: PostTransfers, code: LedgerCode) -> TransfersRefused:
    return TransfersRefused(
        transfer_id=command.transfer_id, source_id=command.source_id, code=code, command_type=command.TYPE
    )


def _corrected(load: LoadPlan, message: Incoming[CorrectBalance]) -> None:
    load.accounts.add(message.body.account_id)
    load.movements.add(message.body.correction_id)
    load.corrections.add(message.body.correction_id)


@needs(_corrected)
def correct_balance(books: Books, message: Incoming[CorrectBalance], moment: Moment) -> Outcome:
    """Post an operator's correction unless too few units are available; the audit records it either way.

    A repeated one is answered as it was decided: there is nobody to tell about a conflict.
    """
    command = message.body
    known = books.corrections.find(command.correction_id)
    changed: Outcome = ()
    if known is None:
        account = books.account(command.account_id)
        code = _why_not_corrected(books, command, account)
        known = _correction(command, code, moment)
        books.corrections.put(known)
        if code is None:
            amounts = (command.amount_units,)
            posted = Transfer(
                known.id, TransferKind.CORRECTION, CORRECTIONS, _content(command), None, amounts, moment.now
            )
            books.transfers.put(posted.sealed())
            changed = _post_own(books, known.id, account, command.amount_units, CORRECTIONS, moment)
    if known.code is not None:
        return ()
    answer = BalanceCorrected(correction_id=known.id, account_id=known.account_id, amount_units=known.amount_units)
    return [answer, *changed]


def _why_not_corrected(books: Books, command: CorrectBalance, account: Account) -> LedgerCode | None:
    if books.is_transfer(command.correction_id) or books.is_hold(command.correction_id):
        return LedgerCode.ID_CONFLICT
    if account.id in OWN_ACCOUNTS:
        return LedgerCode.ACCOUNT_CLOSED
    return LedgerCode.UNITS_SHORT if account.available_units + command.amount_units < 0 else None


def _correction(command: CorrectBalance, code: LedgerCode | None, moment: Moment) -> Correction:
    return Correction(
        command.correction_id,
        command.account_id,
        command.amount_units,
        command.reason,
        command.operator,
        _text(code),
        moment.now,
    )


def _account(load: LoadPlan, message: Incoming[AccountExtended | AccountExpired | AccountClosed]) -> None:
    load.accounts.add(message.body.account_id)


@needs(_account)
def account_extended(books: Books, message: Incoming[AccountExtended], moment: Moment) -> Outcome:
    """Mark the account as active, unless this is an old answer repeated after the account has expired again."""
    event = message.body
    if event.expires_at > moment.now:
        _mark(books, event.account_id, AccountState.ACTIVE)
    return ()


@needs(_account)
def account_expired(books: Books, message: Incoming[AccountExpired], moment: Moment) -> Outcome:
    """Restrict the account's spending to its own extension."""
    _mark(books, message.body.account_id, AccountState.EXPIRED)
    return ()


@needs(_account)
def account_closed(books: Books, message: Incoming[AccountClosed], moment: Moment) -> Outcome:
    """Close the account, which can then neither spend nor receive, for good."""
    _mark(books, message.body.account_id, AccountState.CLOSED)
    return ()


def _mark(books: Books, id_: UUID, state: AccountState) -> None:
    before = books.account(id_)
    after = in_state(before, state)
    if after != before:
        books.accounts.put(after)


def _post_own(books: Books, id_: UUID, account: Account, amount_units: int, own: UUID, moment: Moment) -> Outcome:
    """Write a movement between an account and one of Popfax's own."""
    told = _post_one(books, id_, account, amount_units, moment)
    books.entries.add(own_entry(id_, own, -amount_units, moment.now))
    return [told]


def _post_one(books: Books, id_: UUID, account: Account, amount_units: int, moment: Moment) -> BalanceChanged:
    """Write one account's side of a movement, negative if units leave it."""
    after = moved(account, amount_units)
    books.entries.add(entry(id_, account, after, moment.now))
    return _changed(books, after)


def _changed(books: Books, account: Account) -> BalanceChanged:
    """Save a changed account, and return the event with its new balance."""
    books.accounts.put(account)
    return BalanceChanged(
        account_id=account.id,
        version=account.revision,
        balance_units=account.balance_units,
        available_units=account.available_units,
    )


def _version(books: Books, account_id: UUID) -> int:
    """Return the version from which on a balance includes what is answered: today's, for a repeated answer."""
    return books.account(account_id).revision


def _text(code: LedgerCode | None) -> str | None:
    return None if code is None else code.value


def _content(command: Message) -> bytes:
    """Return what distinguishes two commands with the same id.

    Empty optional fields are left out, so that adding one later does not change the content of earlier commands.
    """
    silent = {name for name, default in _optional(type(command)) if getattr(command, name) == default}
    value = command.model_dump_json(exclude=silent).encode() if silent else command.to_json()
    return blake2b(value, digest_size=16).digest()


@cache
def _optional(model: type[Message]) -> Sequence[tuple[str, Any]]:
    return [(name, field.default) for name, field in model.model_fields.items() if not field.is_required()]
