"""Runs provisioning: `python -m services.provisioning.app`. Nothing happens at import."""

from services._platform.ending import end_at_once

if __name__ == "__main__":
    end_at_once()  # until there is something to be ended in order: what is imported below takes its time

from services._platform.runtime import run
from services._platform.settings import ServiceSettings, load_settings
from services.provisioning.consumers import PROVISIONING


def main() -> None:
    """Read the settings and run until told to stop."""
    run(PROVISIONING, load_settings(ServiceSettings, PROVISIONING.principal))


if __name__ == "__main__":
    main()
