"""Deliberate mistakes in the chassis itself and in the sender of mails, which a seed must find in a story of replicas.

Each takes out one thing that keeps replicas apart: what is left is the code as it is.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from unittest.mock import patch

from popfax_contracts.topics import Principal
from services.chassis import kafka, relay
from services.chassis.arrivals import Fetched
from services.chassis.client_state import ClientState
from services.chassis.consumer import Consumer
from services.chassis.database import Ready
from services.chassis.gathering import Gathering
from services.chassis.loading import NeededRows
from services.chassis.relay import Relay
from services.chassis.rows import replace
from services.chassis.settings import KafkaSettings
from services.notifications import sender, smtp
from services.notifications.smtp import Broken, Connection, Envelope, Reply, Stale
from services.notifications.tables import PEOPLE
from tests.simulation.mails import Mails
from tests.simulation.product import Product
from tests.simulation.replicas import Consumers, Relays, Story
from tests.simulation.sending import STATEMENTS, as_row


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake, the story that tells it, and the first seed that does."""

    story: type[Story]
    made: Callable[[], AbstractContextManager[Any]]
    found_by: int

    def findings(self, seed: int) -> list[str]:
        """Return what a seed finds."""
        with self.made():
            return self.story(seed).run()


def no_fence() -> AbstractContextManager[Any]:
    """Start the relay's producer without its epoch: a leader that was paused publishes what it still had in hand."""
    fenced = kafka.producer

    async def unfenced(settings: KafkaSettings, fence: str | None = None) -> Any:
        return await fenced(settings)

    return patch.object(kafka, "producer", unfenced)


def floor_follows_what_was_read() -> AbstractContextManager[Any]:
    """Begin each scan after the last row that was read, though numbers are not in the order of the commits."""
    return patch.object(Relay, "_settled", lambda self, _: Ready(self._last))


def deletes_before_it_is_acknowledged() -> AbstractContextManager[Any]:
    """Delete rows that were sent and not acknowledged."""
    acknowledged = relay.publish
    sending: set[asyncio.Task[None]] = set()

    async def unacknowledged(producer: Any, rows: Sequence[relay.Unsent], principal: Principal) -> None:
        task = asyncio.get_running_loop().create_task(acknowledged(producer, rows, principal))
        sending.add(task)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    return patch.object(relay, "publish", unacknowledged)


def passes_over_what_it_cannot_unpack() -> AbstractContextManager[Any]:
    """Believe the client about its position after a batch that it could not unpack."""
    return patch.object(Consumer, "_stop", lambda *_: None)


def stays_out() -> AbstractContextManager[Any]:
    """Keep a client that stays out of its group though it could join: the orphaned consumer."""
    return patch.object(ClientState, "stranded", False)


def is_alive_without_its_client() -> AbstractContextManager[Any]:
    """Take a replica for alive whose client has deadlocked."""
    return patch.object(ClientState, "mute", False)


def offsets_first() -> AbstractContextManager[Any]:
    """Commit offsets before the database has committed."""
    handles = Consumer._handle

    def too_early(self: Consumer, records: list[Fetched]) -> None:
        self._done |= {(record.topic, record.partition): record.offset + 1 for record in records}
        self._commit()
        handles(self, records)

    return patch.object(Consumer, "_handle", too_early)


def ignores_that_offsets_are_refused() -> AbstractContextManager[Any]:
    """Ask for a commit of offsets once, and not again when it was refused."""
    return patch.object(Consumer, "_on_commit", lambda *_: None)


def keeps_what_is_lost() -> AbstractContextManager[Any]:
    """Handle what was fetched of a partition that another replica has by now."""
    return patch.object(Gathering, "lose", lambda *_: None)


def keeps_paused() -> AbstractContextManager[Any]:
    """Leave a partition paused that is handed over while the batch waits: nothing is read of it when it comes back."""
    lost = Consumer._on_lost

    def unresumed(self: Consumer, client: Any, partitions: Any) -> None:
        with patch.object(client, "resume", lambda _: None):
            lost(self, client, partitions)

    return patch.object(Consumer, "_on_lost", unresumed)


def locks_no(*tables: str) -> AbstractContextManager[Any]:
    """Load rows of these tables without a lock: two replicas decide on the same state, and the second to save wins."""
    fetch = NeededRows.fetch

    def unlocked(self: NeededRows[Any, Any], tx: Any, *, for_update: bool = True) -> Any:
        return fetch(self, tx, for_update=for_update and self.mapped.table.name not in tables)

    return patch.object(NeededRows, "fetch", unlocked)


def believes_before_the_answer() -> AbstractContextManager[Any]:
    """Take a mail for sent as soon as its content is handed over."""
    hands_over = Connection._hand_over

    def believed(self: Connection, mail: Envelope) -> None:
        hands_over(self, mail)
        self._replies.append(Reply(250, "surely"))

    return patch.object(Connection, "_hand_over", believed)


def is_always_certain() -> AbstractContextManager[Any]:
    """Take a connection that broke before the answer for an attempt that failed."""

    def certain(self: Broken, what: str, uncertain: bool = False) -> None:
        Exception.__init__(self, what)
        self.uncertain = False

    return patch.object(Broken, "__init__", certain)


def sends_again_at_once() -> AbstractContextManager[Any]:
    """Replace a connection that broke, also after a content was handed over, and send the mail over the new one."""
    sends = Connection.send

    async def again(self: Connection, mail: Envelope, end_by: float) -> Reply:
        first = not self._carried
        try:
            return await sends(self, mail, end_by)
        except Broken as error:
            if first:
                raise
            raise Stale from error

    return patch.object(Connection, "send", again)


@contextmanager
def takes_any_reply() -> Iterator[None]:
    """Take any reply for the answer to what was said last, whether it asks to go on or not."""

    async def exchange(self: Connection, commands: Sequence[bytes]) -> list[Reply]:
        self._write(b"".join(commands), replies=len(commands))
        return [await self._reply() for _ in commands]

    with patch.object(Connection, "_exchange", exchange), patch.object(smtp, "_GO_ON", ()):
        yield


def with_deliveries(**changes: Any) -> AbstractContextManager[Any]:
    """Take mails as if something else was recorded of them."""
    before = sender._before

    async def other(connection: Any, rows: Sequence[Any]) -> Any:
        return {id_: replace(found, **changes) for id_, found in (await before(connection, rows)).items()}

    return patch.object(sender, "_before", other)


def numbers_no_attempts() -> AbstractContextManager[Any]:
    """Number all attempts the same: a late record ends another's attempt."""
    due = sender._due

    def unnumbered(*given: Any) -> Any:
        found = due(*given)
        return found if isinstance(found, str) else dataclasses.replace(found, attempts=1)

    return patch.object(sender, "_due", unnumbered)


def looks_people_up_without_a_lock() -> AbstractContextManager[Any]:
    """Render mails to people who are just being erased: the same statement without FOR SHARE."""

    async def unlocked(tx: Any, given: Any) -> list[Any]:
        return [as_row(PEOPLE, row) for id_ in given["p_ids"] if (row := tx.row(PEOPLE, id_)) is not None]

    return patch.dict(STATEMENTS, {sender._PEOPLE: unlocked})


MISTAKES: Final[Mapping[str, Mistake]] = {
    "the relay's producer has no fence": Mistake(Relays, no_fence, 20),
    "the relay's floor follows what was read": Mistake(Relays, floor_follows_what_was_read, 5),
    "the relay deletes before it is acknowledged": Mistake(Relays, deletes_before_it_is_acknowledged, 5),
    "the consumer believes where its client stands": Mistake(Consumers, passes_over_what_it_cannot_unpack, 21),
    "a consumer that is in no group is left alone": Mistake(Consumers, stays_out, 16),
    "a consumer whose client has deadlocked is alive": Mistake(Consumers, is_alive_without_its_client, 0),
    "offsets are committed before the database": Mistake(Consumers, offsets_first, 17),
    "offsets are committed before the database, anywhere": Mistake(Product, offsets_first, 5),
    "offsets that were refused are not committed again": Mistake(Product, ignores_that_offsets_are_refused, 20),
    "what is handed over while it waits stays paused": Mistake(Consumers, keeps_paused, 17),
    "two replicas compute from the same balance": Mistake(Product, partial(locks_no, "accounts"), 11),
    "two replicas take the same step of a saga": Mistake(Product, partial(locks_no, "sagas"), 97),
    "a mail is believed to be sent before the answer": Mistake(Mails, believes_before_the_answer, 4),
    "an attempt whose end is unknown counts as failed": Mistake(Mails, is_always_certain, 1),
    "a mail is sent again at once when its connection breaks": Mistake(Mails, sends_again_at_once, 8),
    "a reply that is out of step is taken for an answer": Mistake(Mails, takes_any_reply, 6),
    "nobody remembers that a mail was in flight": Mistake(Mails, partial(with_deliveries, in_flight_since=None), 1),
    "a mail is rendered again at each attempt": Mistake(Mails, partial(with_deliveries, rendered=None), 1),
    "a late record ends another replica's attempt": Mistake(Mails, numbers_no_attempts, 2),
    "mails are rendered to somebody who is being erased": Mistake(Mails, looks_people_up_without_a_lock, 30),
}
"""All mistakes, by their description."""
