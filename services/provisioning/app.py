"""Runs provisioning: `python -m services.provisioning.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.open_work import measure_open
from services.chassis.runtime import run
from services.chassis.settings import ServiceSettings, load_settings
from services.provisioning.consumers import PROVISIONING
from services.provisioning.tables import sagas


async def measure_sagas(engine: AsyncEngine, *_: object) -> None:
    """Measure the open sagas."""
    await measure_open(engine, "saga", sagas.c.opened_at, sagas.c.ended_at.is_(None))


def main() -> None:
    """Read the settings and run until told to stop."""
    run(PROVISIONING, load_settings(ServiceSettings, PROVISIONING.principal), [measure_sagas])


if __name__ == "__main__":
    main()
