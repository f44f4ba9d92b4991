"""A shell of the recording service on a real PostgreSQL, and a partition to put records on."""

from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from popfax_contracts.ids import message_id
from popfax_contracts.ledger import CreditUnits
from popfax_contracts.topics import LEDGER_COMMANDS
from services.chassis.postgres import PostgresDatabase
from services.chassis.shell import FromKafka, Shell
from services.chassis.timers import retry_requested
from tests.integration.recorder import Recorder, Sent, effects, parked

TOPIC = LEDGER_COMMANDS.name


class Line:
    """A shell of the recording service, and a partition to put records on."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.url = engine.url.render_as_string(hide_password=False)
        self.recorder = Recorder()
        self.shell = Shell(self.recorder.service, PostgresDatabase(engine))
        self._offset = 0

    def record(self, body: CreditUnits, id_: UUID | None = None, value: bytes | None = None) -> Sent:
        self._offset += 1
        headers = [("ce_id", str(id_ or uuid4()).encode()), ("ce_type", body.TYPE.encode()), ("other", b"\xff\x00")]
        return Sent(TOPIC, 0, self._offset, body.key().encode(), value or body.to_json(), headers)

    async def handle(self, *records: Sent) -> None:
        await self.shell.process(records, FromKafka())

    async def amounts(self, account: UUID) -> list[int]:
        return [effect.amount_units for effect in await effects(self.engine, [account])]

    async def retry(self, id_: UUID) -> None:
        await self.shell.database.request_retry([id_])
        while await retry_requested(self.shell):
            pass

    async def why(self) -> list[str]:
        return [row.why for row in await parked(self.engine)]


def id_of_record(record: Sent) -> UUID:
    """Return the record's message id, as in the inbox and the parked messages."""
    envelope = dict(record.headers)
    return message_id(record.topic, envelope.get("ce_source") or b"", envelope["ce_id"] or b"")
