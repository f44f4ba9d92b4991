"""Transfers: the ledger alone, from commands on Kafka to events on Kafka."""

from random import Random
from typing import Any
from uuid import uuid4

from popfax_contracts.ledger import Leg, PostTransfers, TransfersPosted, TransfersRefused
from popfax_contracts.topics import LEDGER_EVENTS, SERVICES, Principal
from tests.bench.load import Command, command
from tests.bench.running import Bench, Ends

_ENDS: Ends = [(LEDGER_EVENTS, [TransfersPosted, TransfersRefused])]
_WARM_UP = 5000


async def transfers(bench: Bench) -> dict[str, Any]:
    """Stop all services but the ledger, and have units transferred between random owners. The others stay stopped."""
    bench.stop(*(bench.product.services[each] for each in SERVICES if each is not Principal.LEDGER))
    await bench.run(_commands(bench, _WARM_UP), _ENDS, writer=Principal.GROUPS)
    ran = await bench.run(_commands(bench, bench.sizes.transfers), _ENDS, writer=Principal.GROUPS)
    return {"transfers": {"per_s": round(ran.per_s), **ran.costs()}}


def _commands(bench: Bench, count: int) -> list[Command]:
    random, commands = Random(1), []
    for _ in range(count):
        source, target = random.sample(bench.owners, 2)
        legs = (Leg(account_id=target, amount_units=1),)
        body = PostTransfers(transfer_id=uuid4(), source_id=source, legs=legs)
        commands.append(command(body, source, Principal.GROUPS))  # groups asks for transfers, and rests now
    return commands
