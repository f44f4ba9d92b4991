"""Every interleaving of the saga, the relay and parked keys; for each mistake, the shortest way to what it breaks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from popfax_contracts.message import Message
from services.chassis.memory import MemoryTransaction
from services.chassis.sagas import CancelSaga, RetrySaga, SagaDeadline
from tests.models.parking import Parking
from tests.models.relay import Mistake, Relay
from tests.models.saga import CreationSaga
from tests.models.search import Found, TooLarge, search
from tests.simulation.mutations import MUTATIONS, BlindDatabase, ForgetfulDatabase
from tests.simulation.world import FaultyDatabase

pytestmark = pytest.mark.usefixtures("quiet")


# --- the search itself ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jugs:
    """Two jugs, of three and of five litres, from which four are to be measured: a puzzle whose answer is known."""

    forbidden: int = 4
    """What the larger jug must never hold."""

    def initial(self) -> tuple[int, int]:
        return 0, 0

    def key(self, state: tuple[int, int]) -> tuple[int, int]:
        return state

    def steps(self, state: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
        small, large = state
        yield "fill the small one", (3, large)
        yield "fill the large one", (small, 5)
        yield "empty the small one", (0, large)
        yield "empty the large one", (small, 0)
        over = min(small, 5 - large)
        yield "pour into the large one", (small - over, large + over)
        over = min(large, 3 - small)
        yield "pour into the small one", (small + over, large - over)

    def violation(self, state: tuple[int, int]) -> str | None:
        return "measured" if state[1] == self.forbidden else None

    def ending(self, state: tuple[int, int]) -> str | None:
        return None


def test_finds_a_shortest_way() -> None:
    assert search(Jugs()).trace == (
        "fill the large one",
        "pour into the small one",
        "empty the small one",
        "pour into the small one",
        "fill the large one",
        "pour into the small one",
    )


def test_visits_each_state_once() -> None:
    assert search(Jugs(forbidden=6)) == Found(states=16, endings=0)


def test_says_so_when_it_was_not_exhaustive() -> None:
    with pytest.raises(TooLarge):
        search(Jugs(forbidden=6), most=10)


# --- the saga ---------------------------------------------------------------------------------------------------------

OF_THE_SAGA: Final = {
    "a release that comes first burns nothing": "the hold stays open",
    "a capture is done as often as it is asked for": "ledger fails at CaptureHold",
    "held units can be spent": "ledger fails at ",  # whichever comes second: the capture, or what spends them
    "a refused saga does not compensate": "the hold stays open",
    "a deadline assumes the outcome of the pivot": "the account exists, and its hold is released",
    "the capture is never asked for": "the saga never ends",
    "the membership is not written": "completed, account, payment, membership: True True True False",
    "a cancellation is not remembered": "the account exists, and its hold is released",
}
"""Mistakes in the handlers that the saga meets, and what each breaks."""


@pytest.mark.parametrize(("again", "operator"), [(0, (SagaDeadline, RetrySaga)), (1, ())])
def test_no_order_of_its_messages_breaks_the_saga(again: int, operator: Sequence[type[Message]]) -> None:
    assert search(CreationSaga(again=again, operator=operator)).violation is None


@pytest.mark.drill
@pytest.mark.parametrize(
    ("again", "operator"), [(1, (SagaDeadline, RetrySaga)), (0, (SagaDeadline, CancelSaga, RetrySaga))]
)
def test_no_order_of_its_messages_breaks_the_saga_even_with_more_faults(
    again: int, operator: Sequence[type[Message]]
) -> None:
    assert search(CreationSaga(again=again, operator=operator)).violation is None


@pytest.mark.parametrize("name", OF_THE_SAGA)
def test_refutes_the_saga_in_which(name: str) -> None:
    found = search(CreationSaga(services=MUTATIONS[name].services, again=0))
    assert (found.violation or "").startswith(OF_THE_SAGA[name]), found


# --- the relay --------------------------------------------------------------------------------------------------------

FLOOR: Final = {"keys": ("a", "b"), "relays": 1, "leads": 1}
"""Small enough for the floor: two transactions that do not wait for each other."""

FENCE: Final = {"keys": ("a", "a"), "relays": 2, "leads": 3}
"""Small enough for the fences: two rows of one key, and leaders that come and go."""

TWO_LEADERS: Final = {**FENCE, "leads": 2}

OF_THE_RELAY: Final = {
    Mistake.FLOOR_FOLLOWS_WHAT_WAS_READ: (FLOOR, "row 1 is below the floor"),
    Mistake.FLOOR_MOVES_AT_ONCE: (FLOOR, "row 1 is below the floor"),
    Mistake.NO_EPOCH: (TWO_LEADERS, "the last record of a is row 1"),
    Mistake.READS_BEFORE_IT_FENCES: (TWO_LEADERS, "the last record of a is row 1"),
    Mistake.DELETES_BEFORE_IT_IS_ACKNOWLEDGED: (FLOOR, "row 1 was deleted and never published"),
    Mistake.KEYS_ARE_NOT_LOCKED: (FENCE, "the rows of a were published in the order [2]"),
}


@pytest.mark.parametrize("sizes", [FLOOR, FENCE], ids=["floor", "fence"])
def test_no_row_is_lost_or_overtaken(sizes: Any) -> None:
    assert search(Relay(**sizes)).violation is None


@pytest.mark.drill
def test_no_row_is_lost_or_overtaken_with_both_at_once() -> None:
    assert search(Relay(keys=("a", "a", "b"), relays=2, leads=2)).violation is None


@pytest.mark.parametrize("mistake", Mistake)
def test_refutes_the_relay_whose(mistake: Mistake) -> None:
    sizes, expected = OF_THE_RELAY[mistake]
    found = search(Relay(**sizes, mistakes={mistake}))  # type: ignore[arg-type]
    assert (found.violation or "").startswith(expected), found


# --- parking ----------------------------------------------------------------------------------------------------------


class _HastyTransaction(MemoryTransaction):
    def _take_parked(self, ids: Sequence[Any]) -> Any:
        taken = super()._take_parked(ids)
        self.contents.blocked -= {row.key for row in taken.values()}
        return taken


class HastyDatabase(FaultyDatabase):
    """A database in which a retried message unblocks its key, whatever is parked behind it."""

    @asynccontextmanager
    async def begin(self) -> Any:
        async with super().begin() as tx:
            yield _HastyTransaction(tx.contents)


OF_PARKING: Final[dict[Callable[[], FaultyDatabase], str]] = {
    BlindDatabase: "the messages of a took effect in the order ['a3']",
    HastyDatabase: "the messages of a took effect in the order ['a1', 'a3']",
    ForgetfulDatabase: "the messages of b took effect in the order ['b1', 'b1']",
}


def test_each_key_takes_effect_in_its_order_whatever_fails() -> None:
    assert search(Parking()).violation is None


@pytest.mark.parametrize("database", OF_PARKING)
def test_refutes_parking_with_a(database: Callable[[], FaultyDatabase]) -> None:
    found = search(Parking(database))
    assert found.violation == OF_PARKING[database], found
