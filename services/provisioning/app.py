"""Runs provisioning: `python -m services.provisioning.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from services.chassis.runtime import run
from services.chassis.settings import ServiceSettings, load_settings
from services.provisioning.consumers import PROVISIONING


def main() -> None:
    """Read the settings and run until told to stop."""
    run(PROVISIONING, load_settings(ServiceSettings, PROVISIONING.principal))


if __name__ == "__main__":
    main()
