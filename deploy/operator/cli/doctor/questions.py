"""Asks everybody at once, each for a bounded time: whoever does not answer holds up nobody else."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaException

from deploy.operator.cli.connection import unreachable
from deploy.operator.cli.doctor.facts import Silence, Unanswered
from deploy.operator.cli.errors import Failure, Refused, Unreachable

Questions = Mapping[str, Callable[[], Any]]
"""Questions to one server by name, asked one after the other. A server that is away is not asked the rest."""

_LOOK_S = 0.05


def ask(
    servers: Mapping[str, Questions], timeout_s: float, waiting: Callable[[list[str]], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Return all answers by server and question, `Unanswered` for what does not come within `timeout_s` seconds.

    While it waits, `waiting` is called now and then with the names of the servers that have not answered everything.
    """
    told: dict[str, dict[str, Any]] = {server: {} for server in servers}
    # Daemons, as nothing can end a thread that waits in a client: the process does not wait for them when it ends.
    threads = {
        server: threading.Thread(target=_ask, args=(questions, told[server]), daemon=True)
        for server, questions in servers.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + timeout_s
    while (left := [server for server, each in threads.items() if each.is_alive()]) and time.monotonic() < deadline:
        waiting(left)
        time.sleep(_LOOK_S)
    late = Unanswered(Silence.LATE, f"no answer within {timeout_s:g} s")
    return {server: {name: told[server].get(name, late) for name in questions} for server, questions in servers.items()}


def _ask(questions: Questions, told: dict[str, Any]) -> None:
    away: Unanswered | None = None
    for name, question in questions.items():
        told[name] = away or _answer(question)
        if isinstance(told[name], Unanswered) and told[name].silence is Silence.AWAY:
            away = told[name]


def _answer(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Refused as error:
        return Unanswered(Silence.REFUSED, str(error))
    except Unreachable as error:
        return Unanswered(Silence.AWAY, _why(error))
    except Failure as error:  # a setting that can't be meant
        return Unanswered(Silence.REFUSED, str(error))
    except KafkaException as error:
        return Unanswered(Silence.REFUSED, str(unreachable(error)))
    except Exception as error:  # a bug in one question: the others are needed all the more
        return Unanswered(Silence.REFUSED, f"{type(error).__name__}: {error}")


def _why(error: Unreachable) -> str:
    """Return what the driver said, in short; what the command would say if it is not about a connection."""
    cause = getattr(error.__cause__, "orig", None)
    if cause is None:
        return str(error)
    first, *_ = str(cause).strip().splitlines() or [type(cause).__name__]
    return first.rpartition("failed: ")[2]
