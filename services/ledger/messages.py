"""Messages that come from no topic: an operator's, delivered as a timer."""

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from popfax_contracts.fields import MAX_UNITS, Line
from popfax_contracts.message import Message


def _not_zero(units: int) -> int:
    if units == 0:
        raise ValueError("a correction of nothing")
    return units


class CorrectBalance(Message, type="popfax.ledger.correct-balance", key="account_id"):
    """An operator's message: post that many units to an account, or take them from it if negative.

    The account's state does not matter. It is refused, with no effect but an audit row, with `id_conflict` (its id is
    that of another movement) or `units_short`. `reason` and `operator` are only for the audit: no event carries them.
    """

    correction_id: UUID
    account_id: UUID
    amount_units: Annotated[int, Field(strict=True, ge=-MAX_UNITS, le=MAX_UNITS), AfterValidator(_not_zero)]
    reason: Annotated[Line, Field(min_length=3)]
    operator: Line
