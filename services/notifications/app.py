"""Runs notifications: `python -m services.notifications.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.pruning import Old, prune
from services.chassis.runtime import Background, run
from services.chassis.settings import load_settings
from services.notifications.consumers import NOTIFICATIONS
from services.notifications.sender import send_mails
from services.notifications.settings import NotificationsSettings
from services.notifications.tables import ENDED, deliveries, mails


async def forget_mails(engine: AsyncEngine, settings: NotificationsSettings, *_: object) -> None:
    """Remove mails that ended long ago."""
    await prune(engine, ended_mails(timedelta(days=settings.mail_retention_days)))


def ended_mails(keep: timedelta) -> Old:
    """Return the mails that ended so long ago, and their deliveries."""
    return Old(mails.c.next_attempt_at, keep, ENDED, beside=deliveries.c.mail_id, noted=True)


def main() -> None:
    """Read the settings and run until told to stop."""
    settings = load_settings(NotificationsSettings, NOTIFICATIONS.principal)
    background: Sequence[Background[NotificationsSettings]] = [forget_mails]
    run(NOTIFICATIONS, settings, [*background, send_mails] if settings.mail_sender else background)


if __name__ == "__main__":
    main()
