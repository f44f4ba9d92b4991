"""Mails: the senders while sagas run at full speed, and one sender alone.

The sagas before have left mails enough: a sender always has work.
"""

import asyncio
import time
from typing import Any

from popfax_contracts.topics import Principal
from tests.bench.counters import MAILS_SENT
from tests.bench.running import Bench

_SENDER = {"mail_sender": "true"}


async def beside_sagas(bench: Bench, senders: int) -> dict[str, Any]:
    """Run sagas at full speed with one or two replicas of notifications that send; then the sender rests again."""
    bench.restart(Principal.NOTIFICATIONS, **_SENDER)
    if senders == 1:
        figures = await _beside(bench)
    else:
        with bench.beside(Principal.NOTIFICATIONS, "2", **_SENDER):
            figures = await _beside(bench)
    bench.restart(Principal.NOTIFICATIONS)
    return figures


async def _beside(bench: Bench) -> dict[str, Any]:
    ran = await bench.sagas(bench.sizes.mail_sagas)
    mails = ran.counted[Principal.NOTIFICATIONS][MAILS_SENT]
    return {"mails_per_s": round(mails / ran.elapsed_s), "sagas_per_s": round(ran.per_s)}


async def alone(bench: Bench) -> dict[str, Any]:
    """Let one sender loose on what is left, with nothing else to do, for a few seconds."""
    bench.restart(Principal.NOTIFICATIONS, **_SENDER)
    before, began = _sent(bench), time.perf_counter()
    await asyncio.sleep(bench.sizes.mails_s)
    sent, elapsed = _sent(bench) - before, time.perf_counter() - began
    bench.stop(bench.product.services[Principal.NOTIFICATIONS])
    return {"per_s": round(sent / elapsed)}


def _sent(bench: Bench) -> float:
    return bench.counters()[Principal.NOTIFICATIONS][MAILS_SENT]
