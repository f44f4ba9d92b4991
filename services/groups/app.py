"""Runs groups: `python -m services.groups.app`. Nothing happens at import."""

from services._platform.runtime import run
from services._platform.settings import ServiceSettings, load_settings
from services.groups.consumers import GROUPS


def main() -> None:
    """Read the settings and run until told to stop."""
    run(GROUPS, load_settings(ServiceSettings, GROUPS.principal))


if __name__ == "__main__":
    main()
