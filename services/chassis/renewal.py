"""Notices that Kafka's passwords or certificates have changed, and tells its clients, which read no files themselves.

PostgreSQL and the mail server are connected to with what the files say at that moment; Kafka's clients connect by
themselves, whenever they like, with what they were last told.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import structlog

from services.chassis.kafka_access import Access, access, context
from services.chassis.settings import KafkaSettings

log = structlog.get_logger(__name__)

EVERY_S = 1.0

Changed: TypeAlias = Callable[[bool], None]
"""Called when the settings have changed, with whether what is in the files for TLS has, too."""


async def renew(settings: KafkaSettings, known: Access, *changed: Changed) -> None:
    """Keep the settings up to date until cancelled, and call each of `changed` when they have changed.

    `known` is what the clients were made with.
    """
    while True:
        settings.reread()
        if (now := _now(settings, known)) is not None and now != known:
            with_tls, known = now.tls != known.tls, now
            log.info("kafka_access_renewed", what="certificates" if with_tls else "password")
            for tell in changed:
                tell(with_tls)
        await asyncio.sleep(EVERY_S)


def _now(settings: KafkaSettings, known: Access) -> Access | None:
    """Return what a connection would be opened with now; None while it could not: a file is just being replaced."""
    try:
        now = access(settings)
        if now.tls != known.tls:
            context(settings)
    except (OSError, ValueError):
        return None
    return now
