"""What a form brings: text fields, some of them many times."""

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

from starlette.requests import Request

MAX_BYTES = 256 * 1024
"""A thousand members fit in, three times."""

_MAX_FIELDS = 3000

CARRIED = ("resend", "email", "plan", "price", "first_name", "last_name", "language", "name")
"""What a form may need again after its answer: to go on with, or to be filled in once more."""

MAX_NUMBER = 1_000_000_000


class BadForm(ValueError):
    """No form of ours looks like this."""


class Texts(dict[str, str]):
    """Texts by name; one that is not there is empty."""

    def __missing__(self, _: str) -> str:
        return ""


class Form:
    """The fields of a form."""

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self._fields = fields

    def one(self, name: str) -> str:
        """Return a field, without the spaces around it; empty if it is not there."""
        return next(iter(self._fields.get(name, ())), "").strip()

    def all(self, name: str) -> Sequence[str]:
        """Return a field that may be there many times."""
        return self._fields.get(name, ())

    def without(self, *names: str) -> Mapping[str, Sequence[str]]:
        """Return all fields but these."""
        return {name: values for name, values in self._fields.items() if name not in names}

    def some(self, *names: str) -> Texts:
        """Return those of these fields that are there."""
        return Texts({name: self.one(name) for name in names if name in self._fields})


async def read_form(request: Request) -> Form:
    """Read a form that was posted; raises `BadForm`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise BadForm("too long")
    try:
        return form_of(body.decode())
    except UnicodeDecodeError as error:
        raise BadForm("not a form") from error


def form_of(text: str) -> Form:
    """Read a form as browsers write it; raises `BadForm`."""
    try:
        return Form(parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise BadForm("not a form") from error


def whole_number(text: str) -> int | None:
    """Read a number from 1 to `MAX_NUMBER`, as people of either language write it; None if it is none."""
    digits = text.replace("\u202f", "").replace("\u00a0", "").replace(" ", "")
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else 0
    return number if 0 < number <= MAX_NUMBER else None
