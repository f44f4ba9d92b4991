"""The seams of the chassis at which a process can be made to crash, as data, and what wraps them.

A seam is a function that exists for the flow's own sake. Each point is just before or just after it, and is passed
`about` messages: what the function is given tells which, or what a function further out was given (`_CONTEXTS`).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from services.chassis.messages import Incoming
from tests.crashpoints.trap import About

Call = Mapping[str, Any]
"""A function's arguments by their names."""

PassBy = Callable[[str, Iterable[About]], None]

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, slots=True)
class Seam:
    """A point: its name, the function it is at, on which side of it, and what a call of it is about."""

    point: str
    where: str
    side: str
    about: Callable[[Call], Iterable[About]]


# --- what calls are about ---------------------------------------------------------------------------------------------


def _of_batch(arrivals: Iterable[Any]) -> Iterator[About]:
    for arrival in arrivals:
        if isinstance(arrival, Incoming):
            yield About(arrival.body.TYPE, arrival.correlation_id)


def _decided(call: Call) -> Iterable[About]:
    return _of_batch(call["readable"])


_batch: ContextVar[Sequence[Any]] = ContextVar("batch", default=())


def _committed(_: Call) -> Iterable[About]:
    return _of_batch(_batch.get())


_handled: list[Any] = []
"""The records that the consumer has handled, and whose offsets it has not asked to commit yet."""


def _uncommitted(call: Call) -> Iterable[About]:
    done = call["self"]._done
    asked = [record for record in _handled if record.offset < done.get((record.topic, record.partition), 0)]
    _handled[:] = [record for record in _handled if record not in asked]
    for record in asked:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
        yield About(headers.get("ce_type"), headers.get("ce_correlationid") or headers.get("ce_id", ""))


def _relayed(call: Call) -> Iterable[About]:
    return (About(row.type.decode(), row.correlation_id.decode()) for row in call["rows"])


def _migrated(call: Call) -> Iterable[About]:
    return [About(None, call["step"].up_revision.revision)]


_in_flight: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""The mails that have been handed over to the mail server, by their connections, until it answers."""


def _answered(call: Call) -> Iterable[About]:
    mail = _in_flight.pop(call["self"], None)
    return [] if mail is None else [About(None, mail)]


def _recorded(call: Call) -> Iterable[About]:
    return (About(None, answer.mail.recipient) for answer in call["answers"])


# --- the points -------------------------------------------------------------------------------------------------------

_COMMIT = "services.chassis.pipeline:Pipeline.commit"
_PUBLISH = "services.chassis.relay:Relay._publish"

BEFORE_HANDLER = "before the handler"
BEFORE_COMMIT = "before the commit"
AFTER_COMMIT = "after the commit"
OFFSETS = "between commit and offsets"
PUBLICATION = "between reading the outbox and publishing"
DELETION = "between acknowledgement and deletion"
MIGRATION = "inside a migration"
DATA = "between SMTP DATA and its answer"
ANSWER = "between SMTP's answer and its record"

SEAMS = (
    Seam(BEFORE_HANDLER, "services.chassis.shell:Shell._decide", BEFORE, _decided),
    Seam(BEFORE_COMMIT, _COMMIT, BEFORE, _committed),
    Seam(AFTER_COMMIT, _COMMIT, AFTER, _committed),
    Seam(OFFSETS, "services.chassis.consumer:Consumer._commit", BEFORE, _uncommitted),
    Seam(PUBLICATION, _PUBLISH, BEFORE, _relayed),
    Seam(DELETION, _PUBLISH, AFTER, _relayed),
    Seam(MIGRATION, "services.chassis.migrate:note_support", AFTER, _migrated),
    # The server has taken the mail, and its answer has arrived; nobody has read it.
    Seam(DATA, "services.notifications.smtp:Connection.data_received", BEFORE, _answered),
    Seam(ANSWER, "services.notifications.sender:_record", BEFORE, _recorded),
)


# --- functions further out, which know what those above are about -----------------------------------------------------


def _with_batch(commit: Any) -> Any:
    @wraps(commit)
    async def wrapped(shell: Any, arrivals: Sequence[Any], source: Any) -> None:
        token = _batch.set(arrivals)
        try:
            await commit(shell, arrivals, source)
        finally:
            _batch.reset(token)

    return wrapped


def _with_handled(until_handled: Any) -> Any:
    @wraps(until_handled)
    def wrapped(consumer: Any, records: Sequence[Any]) -> Any:
        handled = until_handled(consumer, records)
        _handled.extend(handled)
        return handled

    return wrapped


def _with_mail(hand_over: Any) -> Any:
    @wraps(hand_over)
    def wrapped(connection: Any, mail: Any) -> None:
        _in_flight[connection] = mail.content.decode(errors="replace")
        hand_over(connection, mail)

    return wrapped


_CONTEXTS = {
    "services.chassis.shell:Shell._commit": _with_batch,
    "services.chassis.consumer:Consumer._until_handled": _with_handled,
    "services.notifications.smtp:Connection._hand_over": _with_mail,
}

PLACES = frozenset({seam.where for seam in SEAMS} | _CONTEXTS.keys())
"""All functions that are wrapped, as `module:name`."""


def found(where: str) -> tuple[Any, str]:
    """Return what holds a function, and the function's name in it. Raises `AttributeError` if it is not there."""
    module, _, path = where.partition(":")
    *outer, name = path.split(".")
    holder: Any = import_module(module)
    for each in outer:
        holder = getattr(holder, each)
    getattr(holder, name)
    return holder, name


def replace(where: str, make: Callable[[Any], Any]) -> None:
    """Replace a function with what `make` returns for it."""
    holder, name = found(where)
    setattr(holder, name, make(getattr(holder, name)))


def install(pass_by: PassBy) -> None:
    """Wrap all seams of this process: each time, `pass_by` is called with the point and what it is about."""
    for where, make in _CONTEXTS.items():
        replace(where, make)
    for seam in SEAMS:
        replace(seam.where, lambda function, seam=seam: _at(seam, function, pass_by))  # type: ignore[misc]


def _at(seam: Seam, function: Any, pass_by: PassBy) -> Any:
    signature = inspect.signature(function)

    def passing(side: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if seam.side == side:
            pass_by(seam.point, seam.about(signature.bind(*arguments, **named).arguments))

    @wraps(function)
    async def awaited(*arguments: Any, **named: Any) -> Any:
        passing(BEFORE, arguments, named)
        result = await function(*arguments, **named)
        passing(AFTER, arguments, named)
        return result

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        passing(BEFORE, arguments, named)
        result = function(*arguments, **named)
        passing(AFTER, arguments, named)
        return result

    return awaited if inspect.iscoroutinefunction(function) else called
