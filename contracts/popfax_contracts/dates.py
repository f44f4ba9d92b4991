"""How long a plan is good for: calendar months, counted in one way wherever somebody is shown or given an end.

Nothing here imports pydantic, so that a service's rules may import it.
"""

from calendar import monthrange
from datetime import UTC, datetime

LAST_YEAR = 2199
"""The last year that a message can contain (`popfax_contracts.fields.END_OF_TIME`)."""


def months_later(start: datetime, months: int) -> datetime | None:
    """Return the same day and time so many calendar months later, in UTC; None beyond the last year.

    If the month lacks that day, it is the month's last day, from which the next period counts: what begins on
    29 February 2028 ends on 28 February 2029, and extended, on 28 February 2030.
    """
    start = start.astimezone(UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    if year > LAST_YEAR:
        return None
    day = min(start.day, monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)
