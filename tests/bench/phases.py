"""Which part of a service the event loop's thread is in, by the functions on its stack.

The functions themselves are named here, not their names: whoever renames or removes one is told by the type checker.
"""

import inspect
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any

from services.chassis import messages, relay, timers
from services.chassis.postgres import PostgresDatabase, PostgresTransaction
from services.chassis.relay import Relay
from services.chassis.service import Service
from services.chassis.shell import FromKafka, Shell
from services.notifications import sender

PHASES: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "decode": (messages.decode,),
    "inbox": (FromKafka.claim, Shell._divert, Shell._commit),  # which awaits what was claimed
    "load": (Service.state,),
    "handlers": (Shell._decide,),
    "save": (
        PostgresTransaction.save,
        PostgresTransaction.send,
        PostgresTransaction.clear_timers,
        PostgresTransaction.set_timers,
    ),
    "commit": (PostgresDatabase.begin,),
    "relay": (Relay.run, relay.publish),  # which runs in a task of its own
    "timers": (timers.run_timers, timers.run_retries),
    "mails": (sender.send_mails,),
}
"""The parts of a message's way, in its order, with the functions that do them. The innermost one on a stack counts."""

PACKAGES = {"/aiokafka/": "relay", "/uvicorn/": "http"}
"""What belongs to a phase but runs in tasks of its own: aiokafka's sender is the relay's."""

FETCH = "fetch"
"""The consumer's thread."""

CLIENT = "client"
"""librdkafka's own threads."""

REST = "rest"
"""The event loop with its polls and its sockets, and what lies between the phases."""

ALL = (FETCH, *PHASES, "http", CLIENT, REST)

_PHASE_OF: dict[CodeType, str] = {
    inspect.unwrap(function).__code__: phase for phase, functions in PHASES.items() for function in functions
}


def phase_of(frame: FrameType | None) -> str:
    """Return the phase that a stack is in."""
    package = REST
    while frame is not None:
        code = frame.f_code
        if (phase := _PHASE_OF.get(code)) is not None:
            return phase
        if package == REST:
            package = next((phase for part, phase in PACKAGES.items() if part in code.co_filename), REST)
        frame = frame.f_back
    return package
