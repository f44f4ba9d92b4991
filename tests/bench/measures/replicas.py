"""A second replica of each service: what that adds to the cost of a saga.

By CPU accounting: on two cores a second replica makes nothing faster, but its batches, polls and connections cost.
"""

import asyncio
from contextlib import ExitStack
from typing import Any

from popfax_contracts.topics import SERVICES
from tests.bench.running import Bench

_REBALANCED_S = 4.0
"""How long partitions take to find their new owners: a few heartbeats."""


async def replicas(bench: Bench) -> dict[str, Any]:
    """Compare a saga's cost with one and with two replicas of each service, at full speed, one after the other."""
    count = bench.sizes.replica_sagas
    one = await bench.sagas(count)
    with ExitStack() as others:
        for principal in SERVICES:
            others.enter_context(bench.beside(principal, "2"))
        await asyncio.sleep(_REBALANCED_S)
        await bench.sagas(bench.sizes.warm_up // 2)
        two = await bench.sagas(count)
    await asyncio.sleep(_REBALANCED_S)
    return {
        "replicas": {
            "one_cpu_us": round(one.product_cpu_us),
            "two_cpu_us": round(two.product_cpu_us),
            "two": {"sagas_per_s": round(two.per_s), **two.costs()},
        }
    }
