"""Runs notifications: `python -m services.notifications.app`. Nothing happens at import."""

from services.chassis.ending import end_at_once

if __name__ == "__main__":
    end_at_once()  # until there is something to be ended in order: what is imported below takes its time

from services.chassis.runtime import run
from services.chassis.settings import load_settings
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.sender import send_mails
from services.notifications.settings import NotificationsSettings


def main() -> None:
    """Read the settings and run until told to stop."""
    settings = load_settings(NotificationsSettings, NOTIFICATIONS.principal)
    run(NOTIFICATIONS, settings, background=[send_mails] if settings.mail_sender else [])


if __name__ == "__main__":
    main()
