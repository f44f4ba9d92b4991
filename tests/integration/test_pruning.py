"""What is older than anybody asks for is forgotten, and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis import pruning
from services.chassis.postgres import INBOX
from tests.integration.recorder import count, eventually, execute
from tests.unit.given import id_of


async def test_forgets_what_is_older_in_parts(
    ledger_url: str, ledger_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    for number in range(7):
        received_at = datetime.now(UTC) - timedelta(days=10 if number < 5 else 3)
        execute(ledger_url, "INSERT INTO inbox (id, received_at) VALUES (%s, %s)", id_of(f"{number}"), received_at)
    pruner = asyncio.create_task(pruning.prune(ledger_engine, INBOX.c.received_at, timedelta(days=5)))
    try:
        await eventually(lambda: len(execute(ledger_url, "SELECT id FROM inbox")) == 2, "old ones are forgotten")
        await asyncio.sleep(0.3)
    finally:
        pruner.cancel()
    assert await count(ledger_engine, "inbox") == 2
