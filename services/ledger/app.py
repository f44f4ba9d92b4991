"""Runs ledger: `python -m services.ledger.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from services.chassis.runtime import run
from services.chassis.settings import ServiceSettings, load_settings
from services.ledger.consumers import LEDGER


def main() -> None:
    """Read the settings and run until told to stop."""
    run(LEDGER, load_settings(ServiceSettings, LEDGER.principal))


if __name__ == "__main__":
    main()
