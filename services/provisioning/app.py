"""Runs provisioning: `python -m services.provisioning.app`. Nothing happens at import."""

from services.chassis.early_exit import exit_on_signal

if __name__ == "__main__":
    exit_on_signal()  # until there is something to shut down in order: the imports below take a while

from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.pruning import ended_sagas, prune
from services.chassis.runtime import run
from services.chassis.settings import SagaSettings, load_settings
from services.provisioning.consumers import PROVISIONING
from services.provisioning.tables import sagas


async def forget_sagas(engine: AsyncEngine, settings: SagaSettings, *_: object) -> None:
    """Remove sagas that ended long ago."""
    await prune(engine, ended_sagas(sagas, settings))


def main() -> None:
    """Read the settings and run until told to stop."""
    run(PROVISIONING, load_settings(SagaSettings, PROVISIONING.principal), [forget_sagas])


if __name__ == "__main__":
    main()
