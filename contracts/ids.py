"""Ids that follow from other ids: the same cause makes the same things again."""

from hashlib import sha1
from uuid import UUID, SafeUUID

# The standard constructor checks its arguments for longer than it works. With ten ids a message that was a fifth of a
# service's CPU (measured), so what is known to be an id is made one directly.
_set_int = UUID.int.__set__  # type: ignore[attr-defined,misc]
_set_safety = UUID.is_safe.__set__  # type: ignore[attr-defined,misc]

_NOT_VARIANT_AND_VERSION = ~((0xC000 << 48) | (0xF000 << 64))
_RFC_4122_VERSION_5 = (0x8000 << 48) | (5 << 76)


def uuid_of(value: int) -> UUID:
    """Give `UUID(int=value)`; the value is 0 or more and below 2**128, unchecked."""
    made = object.__new__(UUID)
    _set_int(made, value)
    _set_safety(made, SafeUUID.unknown)
    return made


def derive(namespace: UUID, name: str) -> UUID:
    """Give `uuid.uuid5(namespace, name)`."""
    digest = sha1(namespace.int.to_bytes(16, "big") + name.encode(), usedforsecurity=False).digest()
    value = int.from_bytes(digest[:16], "big")
    return uuid_of(value & _NOT_VARIANT_AND_VERSION | _RFC_4122_VERSION_5)
