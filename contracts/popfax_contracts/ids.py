"""Ids that are derived from other ids: the same cause makes the same things again.

Ids come from two sides. What a client makes (a credit, a purchase, a subscriber that it registers) has an id that the
client chooses. What the product makes in the same places has a UUID of version 8 (RFC 9562), which a client may not
choose (`popfax_contracts.fields.ClientId`): so nobody can take, or guess and use up, an id that the product will need.
"""

from functools import lru_cache
from hashlib import sha1
from typing import Any
from uuid import UUID, SafeUUID

# The standard constructor checks its arguments for longer than it works. With ten ids a message that was a fifth of a
# service's CPU (measured), so what is known to be an id is made one directly.
_set_int = UUID.int.__set__  # type: ignore[attr-defined,misc]
_set_safety = UUID.is_safe.__set__  # type: ignore[attr-defined,misc]
_UNKNOWN = SafeUUID.unknown

_NOT_VARIANT_AND_VERSION = ~((0xC000 << 48) | (0xF000 << 64))
_RFC_9562_VERSION_5 = (0x8000 << 48) | (5 << 76)
_RFC_9562_VERSION_8 = (0x8000 << 48) | (8 << 76)

OWN_VERSION = 8
"""The version of the ids that the product makes where clients choose ids too."""


def uuid_of(value: int) -> UUID:
    """Return `UUID(int=value)`; the value is 0 or more and below 2**128, unchecked."""
    made = object.__new__(UUID)
    _set_int(made, value)
    _set_safety(made, _UNKNOWN)
    return made


def derive(namespace: UUID, name: str) -> UUID:
    """Return `uuid.uuid5(namespace, name)`: for ids among which no client chooses any."""
    return uuid_of(_hashed(namespace.int.to_bytes(16, "big") + name.encode()) | _RFC_9562_VERSION_5)


def derive_own(namespace: UUID, name: str) -> UUID:
    """Return an id that follows from both as `derive`'s does, of version 8: no client can choose it."""
    return uuid_of(_hashed(namespace.int.to_bytes(16, "big") + name.encode()) | _RFC_9562_VERSION_8)


def message_id(topic: str, source: bytes, id_: bytes) -> UUID:
    """Return who a message is, to everybody who handles it: where it came from, and what it calls itself there.

    CloudEvents makes source and id unique together; the topic is what the broker lets its writers write, and so no
    message on one topic can be taken for a message on another, whatever both call themselves. Of version 8.
    """
    name = _begun(topic, source).copy()
    name.update(id_)
    return uuid_of(int.from_bytes(name.digest(), "big") >> 32 & _NOT_VARIANT_AND_VERSION | _RFC_9562_VERSION_8)


@lru_cache(maxsize=256)
def _begun(topic: str, source: bytes) -> Any:
    """Return the hash of what all messages from one place have in common. No topic has a NUL in it, nor has an id."""
    return sha1(topic.encode() + b"\0" + source + b"\0", usedforsecurity=False)


def _hashed(name: bytes) -> int:
    """Return 122 bits of a hash, in the places of a UUID that are not its version and its variant."""
    return int.from_bytes(sha1(name, usedforsecurity=False).digest(), "big") >> 32 & _NOT_VARIANT_AND_VERSION
