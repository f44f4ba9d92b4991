"""Runs ledger: `python -m services.ledger.app`. Nothing happens at import."""

from services.chassis.ending import end_at_once

if __name__ == "__main__":
    end_at_once()  # until there is something to be ended in order: what is imported below takes its time

from services.chassis.runtime import run
from services.chassis.settings import ServiceSettings, load_settings
from services.ledger.consumers import LEDGER


def main() -> None:
    """Read the settings and run until told to stop."""
    run(LEDGER, load_settings(ServiceSettings, LEDGER.principal))


if __name__ == "__main__":
    main()
