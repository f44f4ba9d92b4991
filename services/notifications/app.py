"""Runs notifications: `python -m services.notifications.app`. Nothing happens at import."""

from services._platform.runtime import run
from services._platform.settings import load_settings
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.sender import send_mails
from services.notifications.settings import NotificationsSettings


def main() -> None:
    """Read the settings and run until told to stop."""
    run(NOTIFICATIONS, load_settings(NotificationsSettings, NOTIFICATIONS.principal), background=[send_mails])


if __name__ == "__main__":
    main()
