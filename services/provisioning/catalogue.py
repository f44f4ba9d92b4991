"""Loads plans, options and fax numbers from a file, at deployment: `python -m services.provisioning.catalogue [FILE]`.

Plans and options that are new or changed are published through the outbox; the running service's relay sends them.
"""

import asyncio
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.fields import PlanName, Units
from contracts.ids import derive
from contracts.message import Message
from contracts.provisioning import OptionPublished, PlanPublished
from contracts.topics import Principal
from services._platform.messages import Incoming, StoredRecord, outgoing
from services._platform.postgres import PostgresTransaction, engine
from services._platform.settings import ServiceSettings, load_settings
from services.provisioning.domain import NumberState, Option, Plan
from services.provisioning.tables import OPTIONS, PLANS, fax_numbers

DEFAULT = Path(__file__).with_name("plans.toml")

_PUBLICATION = UUID("0d9a6f0b-4c3a-5d5e-9b0d-3f1f6a7c2e11")


class PlanEntry(BaseModel):
    """A plan as the file has it."""

    price_units: Units
    validity_days: Annotated[int, Field(gt=0, le=3660)]
    fax_number: bool


class OptionEntry(BaseModel):
    """An option as the file has it."""

    price_units: Units


class NumberRange(BaseModel):
    """So many consecutive numbers, in E.164."""

    first: Annotated[str, StringConstraints(pattern=r"^\+[1-9][0-9]{5,14}$")]
    count: Annotated[int, Field(gt=0, le=1_000_000)]


class Catalogue(BaseModel):
    """The whole file."""

    plans: dict[PlanName, PlanEntry]
    options: dict[Literal["options_pack", "call_forwarding"], OptionEntry] = {}
    fax_numbers: list[NumberRange] = []


def read(path: Path) -> Catalogue:
    """Read the file; raises pydantic's `ValidationError` and `tomllib.TOMLDecodeError`."""
    return Catalogue.model_validate(tomllib.loads(path.read_text()))


async def store(catalogue: Catalogue, engine: AsyncEngine, now: datetime) -> list[str]:
    """Bring the database in line with the file, and publish what changed; gives its names."""
    async with engine.begin() as connection:
        tx = await PostgresTransaction.on(connection)
        plans = await tx.fetch(PLANS, catalogue.plans)
        options = await tx.fetch(OPTIONS, catalogue.options)
        told: list[PlanPublished | OptionPublished] = []
        for name, entry in catalogue.plans.items():
            plan = Plan(name, entry.price_units, entry.validity_days, entry.fax_number)
            if plans.get(name) != plan:
                plans.put(plan)
                told.append(_plan_published(plan))
        for name, offer in catalogue.options.items():
            option = Option(name, offer.price_units)
            if options.get(name) != option:
                options.put(option)
                told.append(OptionPublished(option=name, price_units=option.price_units))
        await tx.save([plans, options])
        await tx.send([outgoing(message, 0, _cause(message, now)) for message in told], now)
        for numbers in catalogue.fax_numbers:
            await connection.execute(add_numbers(numbers))
    return [message.key() for message in told]


def add_numbers(numbers: NumberRange) -> sa.Executable:
    """Make the statement that adds a range to the pool; numbers that are there already stay as they are."""
    first = int(numbers.first[1:])
    series = sa.func.generate_series(first, first + numbers.count - 1).table_valued("n").render_derived()
    number = sa.literal("+").concat(sa.cast(series.c.n, sa.Text))
    rows = sa.select(number, sa.literal(NumberState.FREE.value))
    return insert(fax_numbers).from_select(["number", "state"], rows).on_conflict_do_nothing()


def _plan_published(plan: Plan) -> PlanPublished:
    return PlanPublished(
        plan=plan.plan, price_units=plan.price_units, validity_days=plan.validity_days, fax_number=plan.fax_number
    )


def _cause(message: Message, now: datetime) -> Incoming[Message]:
    """Give what a publication answers: this deployment, as if it were a message."""
    id_ = derive(_PUBLICATION, f"{message!r}/{now.isoformat()}")
    record = StoredRecord(id_, None, "deployment", 0, 0, None, None, ())
    return Incoming(id_, message, record, str(id_))


async def _main(path: Path) -> None:
    settings = load_settings(ServiceSettings, Principal.PROVISIONING)
    connected = engine(settings.database_url.get_secret_value())
    changed = await store(read(path), connected, datetime.now(UTC))
    await connected.dispose()
    print(f"{path.name}: {len(changed)} prices changed {' '.join(changed)}".rstrip())


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT))
