"""Starts a service, or migrates its database, with the seams wrapped: in place of the service's own entry point.

python -m tests.crashpoints.process serve SERVICE SESSIONS MISTAKE DIRECTORY       MISTAKE: of `planted`, or "-"
python -m tests.crashpoints.process migrate SERVICE - - DIRECTORY

With `short` sessions they end sooner than in production, so that who is stopped for longer than that need not be waited
for. A session of PostgreSQL within a transaction ends, too: whoever takes over is not kept waiting by locks.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from services.chassis.early_exit import exit_on_signal

SHORT, USUAL = "short", "usual"

SESSION_S = 2
"""How long Kafka takes a silent member for alive."""

IDLE_S = 3
"""How long PostgreSQL leaves a silent session its transaction, and a relay its lock."""

DATABASE_URL = "CRASHPOINTS_DATABASE_URL"
"""Names the database that is migrated."""


def traps(directory: Path) -> Path:
    """Return where the traps of a stack are: in one directory per service."""
    return directory / "crashpoints"


def _shorten_sessions() -> None:
    from services.chassis import kafka, postgres, relay  # noqa: PLC0415

    consumer = kafka.consumer

    def impatient(*given: Any) -> dict[str, Any]:
        return consumer(*given) | {"session.timeout.ms": SESSION_S * 1000, "heartbeat.interval.ms": 300}

    kafka.consumer = impatient  # type: ignore[assignment]
    postgres._SETTINGS["idle_in_transaction_session_timeout"] = f"{IDLE_S}s"
    relay.ANSWER_S, relay.PAUSE_S = IDLE_S - 1.0, IDLE_S


def main() -> None:
    """Do what the command line says, until told to stop or to crash."""
    exit_on_signal()  # as a service's own entry point does: the imports below take a while
    what, service, sessions, mistake, directory = sys.argv[1:]
    from tests.crashpoints import planted, seams  # noqa: PLC0415
    from tests.crashpoints.trap import Trap  # noqa: PLC0415

    if sessions == SHORT:
        _shorten_sessions()
    seams.install(Trap(traps(Path(directory)) / service).pass_by)
    if mistake != "-":
        planted.plant(mistake)
    if what == "serve":
        import_module(f"services.{service}.app").main()
    else:
        from popfax_contracts.topics import Principal  # noqa: PLC0415
        from services.chassis import migrate  # noqa: PLC0415

        migrate.upgrade(Principal(service), os.environ[DATABASE_URL])


if __name__ == "__main__":
    main()
