"""Account-creation sagas: at full speed, at a rate, and all paid from one account."""

from typing import Any
from uuid import uuid4

from tests.bench.running import Bench

HALF = "half"
"""The name of the rate that is half of what full speed gave in the same run."""


async def full_speed(bench: Bench) -> dict[str, Any]:
    """Publish commands as fast as Kafka takes them, until the last mail of the last saga is committed."""
    ran = await bench.sagas(bench.sizes.sagas)
    return {"full": {"sagas_per_s": round(ran.per_s), **ran.costs()}, "memory_mb": bench.meter.memory_mb()}


async def steady(bench: Bench, rate: float) -> dict[str, Any]:
    """Publish so many commands per second, each at its own moment; measure from that moment to the last event."""
    ran = await bench.sagas(max(round(rate * bench.sizes.steady_s), 50), rate)
    return {"per_s": round(rate), **ran.latencies(), **ran.costs()}


async def one_account(bench: Bench) -> dict[str, Any]:
    """Let one owner pay for all: its account is locked by every batch, and its commands come on one partition."""
    count = bench.sizes.one_account
    owner = uuid4()
    await bench.open_accounts([owner])
    spread = await bench.sagas(count)
    alone = await bench.sagas(count, owners=[owner])
    return {"one_account": {"sagas_per_s": round(alone.per_s), "spread_sagas_per_s": round(spread.per_s)}}
