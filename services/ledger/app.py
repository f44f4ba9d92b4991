"""Runs ledger: `python -m services.ledger.app`. Nothing happens at import."""

from services._platform.runtime import run
from services._platform.settings import ServiceSettings, load_settings
from services.ledger.consumers import LEDGER


def main() -> None:
    """Read the settings and run until told to stop."""
    run(LEDGER, load_settings(ServiceSettings, LEDGER.principal))


if __name__ == "__main__":
    main()
