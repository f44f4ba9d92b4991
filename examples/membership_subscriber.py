"""Who is a member of which group: today's members first, then every change, with FastStream.

`pip install "faststream[kafka]"`, set PLATFORM_KAFKA_BOOTSTRAP, _USERNAME and _PASSWORD, and run it.
"""

# ruff: noqa: T201
import asyncio
import json
import os
import ssl

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.security import SASLScram512

SERVER, USER, PASSWORD = (os.environ[f"PLATFORM_KAFKA_{name}"] for name in ("BOOTSTRAP", "USERNAME", "PASSWORD"))
TLS = os.environ.get("PLATFORM_KAFKA_SECURITY") == "SASL_SSL"
CONTEXT = ssl.create_default_context(cafile=os.environ.get("PLATFORM_KAFKA_CA_FILE")) if TLS else None
broker = KafkaBroker(SERVER, security=SASLScram512(USER, PASSWORD, CONTEXT, use_ssl=TLS), logger=None)
members: dict[str, dict[str, object]] = {}


# The topic is compacted: from its start on, it has a record for each membership of today. Without a group, every start
# reads all of it again; an acknowledgement would have no offset to go to.
@broker.subscriber(
    "popfax.groups.members",
    auto_offset_reset="earliest",
    isolation_level="read_committed",
    ack_policy=AckPolicy.ACK_FIRST,
)
async def membership(message: KafkaMessage) -> None:
    """Keep what is told; a record without a value, a tombstone, ends the membership that its key names."""
    if not str(message.headers.get("ce_type")).startswith("popfax.groups.membership-"):
        return  # a marker keeps Kafka compacting, and says nothing: whoever does not know a type leaves it out
    key = message.raw_message.key.decode()
    if message.body:
        members[key] = json.loads(message.body)
    else:
        members.pop(key, None)
    print(f"{len(members)} members; {key} {'is one' if key in members else 'is none any more'}", flush=True)


asyncio.run(FastStream(broker, logger=None).run())
