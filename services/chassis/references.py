"""What people quote to say which transfer, account or invitation they mean, on paper and on the telephone."""

from uuid import UUID


def reference(id_: UUID) -> str:
    """Return the reference of what has an id: `3F2A-9C41-07BD`, the last 48 bits of the id.

    They are random in the ids that are made here and in UUIDs of versions 4 and 7. Among a million things, two share
    one with a probability of 1 in 500.
    """
    digits = id_.hex[-12:].upper()
    return "-".join((digits[:4], digits[4:8], digits[8:]))
