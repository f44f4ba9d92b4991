"""The ledger, asked for anything in any order: its promises hold after every step.

The commands are drawn by Hypothesis; loading, handling and saving are the service's own, on a database in memory. That
the machine finds a ledger that breaks a promise is shown with ledgers that do.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from deploy.operator.invariants import LedgerSnapshot, check_ledger
from popfax_contracts.ledger import (
    BalanceChanged,
    CaptureHold,
    CreditUnits,
    HoldCaptured,
    HoldReleased,
    Leg,
    PostTransfers,
    ReleaseHold,
    ReserveUnits,
    SpendUnits,
    TransfersPosted,
)
from popfax_contracts.message import Message, Refusal
from popfax_contracts.provisioning import AccountClosed, AccountExpired, AccountExtended
from services.chassis.messages import Incoming, Outcome
from services.chassis.service import Moment, Service
from services.ledger.consumers import LEDGER
from services.ledger.domain import Account, AccountState, Correction, Entry, Hold, Transfer, TransferKind
from services.ledger.messages import CorrectBalance
from services.ledger.store import Books
from tests.simulation.world import exchanged
from tests.unit.given import NOW, given, id_of

R = TypeVar("R")

PEOPLE = [id_of(name) for name in ("ada", "bob", "cleo", "dan")]

people = st.sampled_from(PEOPLE)
# Small figures: units are short about as often as not, and other content under a known id comes up by itself.
units = st.integers(1, 12)
numbers = st.integers(0, 15)
holds = st.integers(0, 5)
legs = st.lists(
    st.tuples(people, st.sampled_from(["amount_units", "top_up_to_units"]), units),
    min_size=1,
    max_size=3,
    unique_by=lambda leg: leg[0],
)


class Ledger(RuleBasedStateMachine):
    """What may come, and what is remembered of it to judge what comes later."""

    service: ClassVar[Service] = LEDGER

    def __init__(self) -> None:
        super().__init__()
        self.scene = given(self.service)
        self.asked: list[tuple[UUID, Message, UUID | None]] = []
        self.decided: dict[UUID, tuple[Message, list[Message]]] = {}
        self.states: dict[UUID, AccountState] = {}
        self.revisions: dict[UUID, int] = {}

    @initialize()
    def everybody_has_some(self) -> None:
        for account in PEOPLE:
            self._send(CreditUnits(credit_id=account, account_id=account, amount_units=20))

    # --- what may come ---

    @rule(number=numbers, account=people, amount=units)
    def credit(self, number: int, account: UUID, amount: int) -> None:
        id_ = _movement(number)
        self._ask(id_, CreditUnits(credit_id=id_, account_id=account, amount_units=amount))

    @rule(number=numbers, account=people, amount=units, actor=people)
    def spend(self, number: int, account: UUID, amount: int, actor: UUID) -> None:
        id_ = _movement(number)
        body = SpendUnits(spend_id=id_, account_id=account, amount_units=amount, purpose="sms", reference="sms-1")
        self._ask(id_, body, account if number % 4 else actor)

    @rule(number=numbers, source=people, to=legs, actor=people)
    def transfer(self, number: int, source: UUID, to: list[tuple[UUID, str, int]], actor: UUID) -> None:
        id_ = _movement(number)
        made = tuple(Leg(account_id=target, **{mode: amount}) for target, mode, amount in to if target != source)
        if made:
            body = PostTransfers(transfer_id=id_, source_id=source, legs=made)
            self._ask(id_, body, source if number % 4 else actor)

    @rule(number=holds, account=people, amount=units, extends=st.booleans())
    def reserve(self, number: int, account: UUID, amount: int, extends: bool) -> None:
        id_ = _hold(number)
        self._ask(id_, ReserveUnits(hold_id=id_, account_id=account, amount_units=amount, extends=extends))

    @rule(number=holds, account=people)
    def capture(self, number: int, account: UUID) -> None:
        self._send(CaptureHold(hold_id=_hold(number), account_id=self._holder(number, account)))

    @rule(number=holds, account=people)
    def release(self, number: int, account: UUID) -> None:
        self._send(ReleaseHold(hold_id=_hold(number), account_id=self._holder(number, account)))

    @rule(number=numbers, account=people, amount=units, sign=st.sampled_from([1, -1]))
    def correct(self, number: int, account: UUID, amount: int, sign: int) -> None:
        id_ = id_of(f"correction {number}")
        body = CorrectBalance(
            correction_id=id_, account_id=account, amount_units=sign * amount, reason="because", operator="Olga"
        )
        self._ask(id_, body)

    @rule(which=st.integers(0, 100))
    def repeat(self, which: int) -> None:
        if self.asked:
            self._ask(*self.asked[which % len(self.asked)])

    @rule(account=people)
    def expire(self, account: UUID) -> None:
        self._live(AccountExpired(account_id=account, expires_at=NOW), AccountState.EXPIRED)

    @rule(account=people)
    def extend(self, account: UUID) -> None:
        until = NOW + timedelta(days=365)
        self._live(AccountExtended(request_id=id_of("any"), account_id=account, expires_at=until), AccountState.ACTIVE)

    @rule(account=people, really=st.integers(0, 4))
    def close(self, account: UUID, really: int) -> None:
        if really == 0:  # rarely: it is final, and little happens afterwards
            self._live(AccountClosed(account_id=account), AccountState.CLOSED)

    # --- what must come of it ---

    def _ask(self, id_: UUID, body: Message, actor: UUID | None = None) -> None:
        """Ask for something that an id is decided by, and compare with what was decided for it before."""
        self.asked.append((id_, body, actor))
        before = self.scene.rows()
        answers = self._send(body, actor)
        stranger = _codes(answers) == ["not_holder"]
        if id_ not in self.decided and not stranger:
            assert _codes(answers) != ["id_conflict"], "nothing was decided for it yet"
            self.decided[id_] = (body, answers)
            return
        assert self.scene.rows() == before, "what is asked again, or by a stranger, changes nothing"
        if stranger:
            return
        known, outcome = self.decided[id_]
        if body == known or isinstance(body, CorrectBalance):
            assert _lasting(answers) == _lasting(outcome), "the same content, the same answer"
        else:
            assert _codes(answers) == [_cancelled(outcome) or "id_conflict"]

    def _send(self, body: Message, actor: UUID | None = None) -> list[Message]:
        """Let a message come; return its answers, and hold what is told of the balances against the books."""
        effects = self.scene.when(body, actor=actor).effects
        told = [effect for effect in effects if isinstance(effect, BalanceChanged)]
        for change in told:
            now = self._account(change.account_id)
            assert change.version == now.revision == self.revisions.get(now.id, 0) + 1
            assert (change.balance_units, change.available_units) == (now.balance_units, now.available_units)
            self.revisions[now.id] = now.revision
        for id_, version in _versions(effects):
            assert version == self.revisions.get(id_, 0), "an answer names the balance that shows it, which is told"
        return [effect for effect in effects if isinstance(effect, Message) and effect not in told]

    def _live(self, event: AccountExtended | AccountExpired | AccountClosed, state: AccountState) -> None:
        assert self._send(event) == []
        if self.states.get(event.account_id) is not AccountState.CLOSED:
            self.states[event.account_id] = state

    def _holder(self, number: int, otherwise: UUID) -> UUID:
        """Return the account of a hold, and now and then another: most should be of what is held."""
        holders = (hold.account_id for hold in self._all(Hold) if hold.id == _hold(number) and number % 4)
        return next(holders, otherwise)

    def _account(self, id_: UUID) -> Account:
        return next(row for row in self._all(Account) if row.id == id_)

    def _all(self, kind: type[R]) -> list[R]:
        return [row for row in self.scene.rows() if isinstance(row, kind)]

    @invariant()
    def the_books_are_right(self) -> None:
        snapshot = LedgerSnapshot(
            accounts=self._all(Account),
            holds=self._all(Hold),
            transfers=self._all(Transfer),
            entries=self._all(Entry),
            corrections=self._all(Correction),
        )
        assert list(check_ledger(snapshot)) == []

    @invariant()
    def what_can_be_spent_is_never_negative(self) -> None:
        assert all(account.available_units >= 0 for account in self._all(Account))

    @invariant()
    def every_change_is_told(self) -> None:
        assert {a.id: a.revision for a in self._all(Account) if a.revision} == self.revisions

    @invariant()
    def accounts_are_in_the_state_that_was_told(self) -> None:
        for account in self._all(Account):
            assert account.state is self.states.get(account.id, AccountState.ACTIVE)


def _movement(number: int) -> UUID:
    return id_of(f"movement {number}")


def _hold(number: int) -> UUID:
    return id_of(f"hold {number}")


def _codes(answers: list[Message]) -> list[str]:
    return [answer.code for answer in answers if isinstance(answer, Refusal)]


def _versions(effects: Iterable[object]) -> Iterator[tuple[UUID, int]]:
    """Yield the versions of balances that answers name."""
    for effect in effects:
        if isinstance(effect, TransfersPosted):
            yield effect.source_id, effect.version
            yield from ((leg.account_id, leg.version) for leg in effect.legs)
        elif isinstance(effect, HoldCaptured | HoldReleased):
            yield effect.account_id, effect.version


def _lasting(answers: list[Message]) -> list[object]:
    """Return answers without the versions, which go on while the answer stays."""
    left_out: Any = {"version": True, "legs": {"__all__": {"version"}}}
    return [(type(answer), answer.model_dump(exclude=left_out)) for answer in answers]


def _cancelled(outcome: list[Message]) -> str | None:
    """A hold that was burned is refused for that, before its content is looked at."""
    return next((code for code in _codes(outcome) if code == "hold_cancelled"), None)


# The same commands each time: a test that fails today failed yesterday.
LIMITS = settings(max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, database=None)


def test_the_ledger_keeps_its_promises_whatever_comes() -> None:
    got: set[str] = set()

    class Watched(Ledger):
        def _send(self, body: Message, actor: UUID | None = None) -> list[Message]:
            answers = super()._send(body, actor)
            got.update(type(answer).__name__ for answer in answers)
            got.update(_codes(answers))
            return answers

    run_state_machine_as_test(Watched, settings=LIMITS)
    done = {"UnitsCredited", "UnitsReserved", "HoldCaptured", "HoldReleased", "TransfersPosted", "UnitsSpent"}
    refused = {"id_conflict", "not_holder", "account_closed", "account_expired", "target_closed", "units_short"}
    lacking = {*done, *refused, "BalanceCorrected", "hold_cancelled", "hold_not_open"} - got
    assert not lacking, "a machine that never gets these shows little"


# --- ledgers that break a promise ---


def credits_again(books: Books, message: Incoming[CreditUnits], moment: Moment) -> Outcome:
    """Forget that the id is known."""
    books.transfers.remove(message.body.credit_id)
    return LEDGER.handlers[CreditUnits](books, message, moment)


def spends_what_is_held(books: Books, message: Incoming[SpendUnits], moment: Moment) -> Outcome:
    """Look at the balance, and not at what is available."""
    account = books.account(message.body.account_id)
    books.accounts.put(replace(account, held_units=0))
    outcome = LEDGER.handlers[SpendUnits](books, message, moment)
    after = books.account(account.id)
    books.accounts.put(replace(after, held_units=account.held_units))
    return outcome


def transfers_by_half(books: Books, message: Incoming[PostTransfers], moment: Moment) -> Outcome:
    """Lose the last target's entry."""
    outcome = LEDGER.handlers[PostTransfers](books, message, moment)
    if books.entries.rows:
        books.entries.rows.pop()
    return outcome


def lets_a_stranger_burn_an_id(books: Books, message: Incoming[SpendUnits], moment: Moment) -> Outcome:
    """Remember a stranger's refusal, and so burn the holder's id."""
    outcome = LEDGER.handlers[SpendUnits](books, message, moment)
    command = message.body
    if message.actor != command.account_id and books.transfers.find(command.spend_id) is None:
        books.transfers.put(
            Transfer(command.spend_id, TransferKind.SPEND, command.account_id, b"", "not_holder", (), NOW)
        )
    return outcome


def tells_nothing(books: Books, message: Incoming[ReleaseHold], moment: Moment) -> Outcome:
    """Keep to itself that units are available again."""
    return LEDGER.handlers[ReleaseHold](books, message, moment)[:1]


def revives(books: Books, message: Incoming[AccountExtended], moment: Moment) -> Outcome:
    """Make a closed account active."""
    books.accounts.put(replace(books.account(message.body.account_id), state=AccountState.ACTIVE))
    return ()


Wrong = Callable[[Books, Incoming[Any], Moment], Outcome]
WRONG: list[tuple[type[Message], Wrong]] = [
    (CreditUnits, credits_again),
    (SpendUnits, spends_what_is_held),
    (SpendUnits, lets_a_stranger_burn_an_id),
    (PostTransfers, transfers_by_half),
    (ReleaseHold, tells_nothing),
    (AccountExtended, revives),
]


@pytest.mark.parametrize(("kind", "wrong"), WRONG, ids=[wrong.__name__ for _, wrong in WRONG])
def test_the_machine_finds_a_ledger_that(kind: type[Message], wrong: Wrong) -> None:
    class Broken(Ledger):
        service = exchanged(LEDGER, {kind: wrong})

    with pytest.raises(AssertionError):
        # What fails need not be made short: that takes longer than finding it.
        run_state_machine_as_test(
            Broken, settings=settings(LIMITS, phases=[Phase.generate], max_examples=2000, report_multiple_bugs=False)
        )
