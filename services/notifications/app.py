"""Runs notifications: `python -m services.notifications.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

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
