"""Loads plans, options and fax numbers from a file, at deployment: `python -m services.provisioning.catalogue [FILE]`.

New or changed plans and options, with `--again` all of them, are published through the outbox; the running service's
relay sends them. What is no longer in the file stays as it was; `on_sale = false` takes it off sale. A file with any
unknown key or invalid value is not loaded at all: each fault has its line, with its key, and the exit code is 1.
"""

import asyncio
import sys
import tomllib
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.fields import Months, PhoneNumber, PlanName, Units
from popfax_contracts.ids import derive
from popfax_contracts.message import Message
from popfax_contracts.provisioning import OptionPublished, PlanPublished
from popfax_contracts.topics import Principal
from services.chassis.messages import Incoming, StoredRecord, outgoing
from services.chassis.postgres import PostgresDatabase, engine
from services.chassis.settings import DatabaseSettings, load_settings
from services.provisioning.domain import NumberState, Option, Plan
from services.provisioning.tables import OPTIONS, PLANS, fax_numbers

DEFAULT = Path(__file__).with_name("plans.toml")

AGAIN = "--again"

_PUBLICATION = UUID("0d9a6f0b-4c3a-5d5e-9b0d-3f1f6a7c2e11")


class Entry(BaseModel):
    """A part of the file. Unknown keys are refused: a misspelt one would otherwise be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlanEntry(Entry):
    """A plan in the file. If it is off sale, those who have it keep it, and extend it at this price."""

    price_units: Units
    validity_months: Months
    fax_number: Annotated[bool, Field(strict=True)]
    on_sale: Annotated[bool, Field(strict=True)] = True


class OptionEntry(Entry):
    """An option in the file. If it is off sale, those who have it keep it."""

    price_units: Units
    on_sale: Annotated[bool, Field(strict=True)] = True


class NumberRange(Entry):
    """A range of consecutive numbers, in E.164."""

    first: PhoneNumber
    count: Annotated[int, Field(strict=True, gt=0, le=1_000_000)]

    @property
    def numbers(self) -> range:
        """Return the numbers."""
        first = int(self.first[1:])
        return range(first, first + self.count)

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if len(str(self.numbers[-1])) != len(self.first) - 1:
            raise ValueError(f"the last number, +{self.numbers[-1]}, has a digit more than the first")
        return self


class Catalogue(Entry):
    """The whole file."""

    plans: Annotated[dict[PlanName, PlanEntry], Field(min_length=1)]
    options: dict[Literal["options_pack", "call_forwarding"], OptionEntry] = {}
    fax_numbers: tuple[NumberRange, ...] = ()

    @field_validator("fax_numbers")
    @classmethod
    def _each_number_once(cls, ranges: tuple[NumberRange, ...]) -> tuple[NumberRange, ...]:
        ordered = sorted(ranges, key=lambda each: each.numbers.start)
        for one, other in pairwise(ordered):
            if other.numbers.start < one.numbers.stop:
                raise ValueError(f"{other.first} is in the range that begins with {one.first}, too")
        return ranges


class BadCatalogue(Exception):
    """A file that is not loaded, with a line for each fault."""


def read(path: Path) -> Catalogue:
    """Read the file; raises `BadCatalogue`."""
    try:
        return Catalogue.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadCatalogue(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadCatalogue(f"{path}: {error}") from error
    except ValidationError as error:
        lines = [f"{path}: {_key(each['loc'])}: {_why(each)}" for each in error.errors()]
        raise BadCatalogue("\n".join(lines)) from error


def _key(location: tuple[int | str, ...]) -> str:
    """Name a place as TOML does; ranges are counted from 1."""
    return ".".join(str(part + 1 if isinstance(part, int) else part) for part in location if part != "[key]") or "."


def _why(error: ErrorDetails) -> str:
    """Say what is wrong and quote it: nothing in the file is personal data."""
    if error["type"] == "extra_forbidden":
        return "is not known here"
    if error["type"] == "missing":
        return "is missing"
    said = error["msg"].removeprefix("Value error, ")
    return said if isinstance(error["input"], dict | list | tuple) else f"{said}, not {error['input']!r}"


async def store(catalogue: Catalogue, engine: AsyncEngine, now: datetime, again: bool = False) -> list[str]:
    """Bring the database in line with the file, and publish what changed; return the names of that.

    With `again`, all of the file is published: for a reader that was not interested in it before.
    """
    async with PostgresDatabase(engine).begin() as tx:
        plans = await tx.fetch(PLANS, catalogue.plans)
        options = await tx.fetch(OPTIONS, catalogue.options)
        told: list[PlanPublished | OptionPublished] = []
        for name, entry in catalogue.plans.items():
            plan = Plan(name, entry.price_units, entry.validity_months, entry.fax_number, entry.on_sale)
            if again or plans.find(name) != plan:
                plans.put(plan)
                told.append(_plan_published(plan))
        for name, offer in catalogue.options.items():
            option = Option(name, offer.price_units, offer.on_sale)
            if again or options.find(name) != option:
                options.put(option)
                told.append(OptionPublished(option=name, price_units=option.price_units, on_sale=option.on_sale))
        await tx.save([plans, options])
        await tx.send([outgoing(message, 0, _cause(message, now)) for message in told], now)
        for numbers in catalogue.fax_numbers:
            await tx.execute(add_numbers(numbers))
    return [message.key() for message in told]


def add_numbers(numbers: NumberRange) -> sa.Executable:
    """Return the statement that adds a range to the pool; existing numbers stay as they are."""
    series = sa.func.generate_series(numbers.numbers[0], numbers.numbers[-1]).table_valued("n").render_derived()
    number = sa.literal("+").concat(sa.cast(series.c.n, sa.Text))
    rows = sa.select(number, sa.literal(NumberState.FREE.value))
    return insert(fax_numbers).from_select(["number", "state"], rows).on_conflict_do_nothing()


def _plan_published(plan: Plan) -> PlanPublished:
    return PlanPublished(
        plan=plan.plan,
        price_units=plan.price_units,
        validity_months=plan.validity_months,
        fax_number=plan.fax_number,
        on_sale=plan.on_sale,
    )


def _cause(message: Message, now: datetime) -> Incoming[Message]:
    """Return the cause of a publication: this deployment, as if it were a message."""
    id_ = derive(_PUBLICATION, f"{message!r}/{now.isoformat()}")
    record = StoredRecord(id_, None, "deployment", 0, 0, None, None, ())
    return Incoming(id_, message, record, str(id_))


async def _main(path: Path, again: bool) -> None:
    try:
        catalogue = read(path)
    except BadCatalogue as error:
        sys.exit(str(error))
    settings = load_settings(DatabaseSettings, Principal.PROVISIONING)
    connected = engine(settings.database_url.get_secret_value())
    told = await store(catalogue, connected, datetime.now(UTC), again)
    await connected.dispose()
    print(f"{path.name}: {len(told)} prices {'published' if again else 'changed'} {' '.join(told)}".rstrip())


if __name__ == "__main__":
    named = [each for each in sys.argv[1:] if each != AGAIN]
    asyncio.run(_main(Path(named[0]) if named else DEFAULT, AGAIN in sys.argv))
