"""What the product uses while nothing happens."""

import asyncio
import time
from typing import Any

from tests.bench.running import Bench
from tests.bench.usage import LOAD

QUIET_S = 3.0
"""How long what came before is given to end."""


async def idle(bench: Bench) -> dict[str, Any]:
    """Return the cores that all processes of the product use."""
    await asyncio.sleep(QUIET_S)
    before, began = bench.meter.look(), time.perf_counter()
    await asyncio.sleep(bench.sizes.idle_s)
    used, elapsed = bench.meter.look().since(before), time.perf_counter() - began
    cores = {name: round(spent / elapsed, 4) for name, spent in used.items() if name != LOAD}
    return {"idle": {"cores": round(sum(cores.values()), 3), "cores_by_process": cores}}
