"""How the demo tells its story: each message in plain words, with its key fields and no noise."""

from collections.abc import Callable
from email.message import EmailMessage
from typing import Any
from uuid import UUID

from rich.box import ROUNDED
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from deploy.operator.cli.commands import words
from deploy.operator.cli.wire import Seen
from popfax_contracts.message import Message
from popfax_contracts.topics import Principal

MAX_WIDTH = 100
_TIME_WIDTH = 7
_RIGHT_WIDTH = 22


class Narrator:
    """Prints the story."""

    def __init__(self, console: Console, names: dict[UUID, str]) -> None:
        """`names` are the names of the people by their ids; people who appear later are added to it."""
        self._console = console
        self.names = names
        self._scenes = 0

    @property
    def width(self) -> int:
        """The width of the story, in characters."""
        return min(self._console.width, MAX_WIDTH)

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self._scenes += 1
        self._console.print()
        self._console.print(
            Rule(Text(f"{self._scenes}. {title}", style="bold"), align="left", style="dim"), width=self.width
        )

    def say(self, text: str, style: str = "") -> None:
        """Print a sentence."""
        self._console.print(Padding(Text(text, style=style), (0, 0, 0, 2), expand=False), width=self.width)

    def gap(self) -> None:
        """Print an empty line."""
        self._console.print()

    def message(self, seen: Seen, offset_s: float, handled_by: set[Principal]) -> None:
        """Tell a message: time, sender and meaning; below, its key fields and its topic."""
        row = self._grid()
        row.add_row(
            Text(f"{offset_s:.3f} s", style="cyan"),
            Text(sentence(seen), style=_style(seen)),
            Text(", ".join(sorted(handled_by)), style="green")
            if handled_by
            else Text("no service needs it", style="dim"),
        )
        row.add_row("", Text(details(seen.body, self.names), style="dim"), Text(_topic(seen), style="dim"))
        self._console.print(row, width=self.width)

    def brief(self, seen: Seen, offset_s: float) -> None:
        """Tell a message in one line: time, sender, meaning and key fields."""
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True)
        row.add_column(width=self.width - _TIME_WIDTH - 2, overflow="fold")
        text = Text(sentence(seen), style=_style(seen))
        if about := details(seen.body, self.names):
            text.append(f"  {about}", style="dim not bold")
        row.add_row(Text(f"{offset_s:.3f} s", style="cyan"), text)
        self._console.print(row, width=self.width)

    def heading(self) -> None:
        """Print the headings of the messages' columns."""
        row = self._grid()
        row.add_row(
            Text("after", style="dim"),
            Text("message on Kafka", style="dim"),
            Text("handled by, topic", style="dim"),
        )
        self._console.print(row, width=self.width)

    def table(self, headings: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
        """Print a table."""
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False), width=self.width)

    def mail(self, mail: EmailMessage, lines: list[str]) -> None:
        """Show a mail as it arrived: headers and text."""
        head = Table.grid(padding=(0, 2, 0, 0))
        for name in ("From", "To", "Subject"):
            head.add_row(Text(name, style="dim"), Text(str(mail[name])))
        text = Text("\n" + "\n".join(lines), overflow="fold")
        panel = Panel(Group(head, text), box=ROUNDED, border_style="dim", width=self.width - 4)
        self._console.print(Padding(panel, (0, 0, 0, 2), expand=False), width=self.width)

    def _grid(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=_TIME_WIDTH, justify="right", no_wrap=True)
        grid.add_column(width=self.width - _TIME_WIDTH - _RIGHT_WIDTH - 4, overflow="fold")
        grid.add_column(width=_RIGHT_WIDTH, overflow="fold")
        return grid


def sentence(seen: Seen) -> str:
    """Return who says what: "groups asks ledger: reserve units"."""
    _, service, kind = (*seen.topic.split("."), "", "")[:3]
    if kind.startswith("commands"):
        return f"{seen.sender} asks {service}: {words(seen.type)}"
    return f"{seen.sender} {'says' if kind == 'events' else 'publishes'}: {words(seen.type)}"


def details(body: Message | None, names: dict[UUID, str]) -> str:
    """Return the key fields of a message in words."""
    if body is None:
        return ""
    fields = body.model_dump()
    parts = [text for name, tell in _TELLING.items() if (text := tell(fields.get(name), names))]
    return ", ".join(parts)


Names = dict[UUID, str]


def _units(value: Any, _: Names) -> str:
    return "" if value is None else f"{value} POP"


def _plain(value: Any, _: Names) -> str:
    return str(value or "")


def _worded(pattern: str) -> Callable[[Any, Names], str]:
    """Return a function that puts a text into a pattern."""
    return lambda value, _: pattern.format(value) if isinstance(value, str) else ""


def _named(pattern: str) -> Callable[[Any, Names], str]:
    """Return a function that puts a person's name into a pattern; unknown ids are left out as noise."""
    return lambda value, names: pattern.format(names[value]) if value in names else ""


def _mode(value: Any, _: Names) -> str:
    return {"amount": "to each", "top_up_to": "as each one’s balance"}.get(value, "")


def _meant(value: Any, names: Names) -> str:
    """Return who is to get units or to be detached."""
    if value == "all":
        return "all members"
    ids = [each["member_id"] if isinstance(each, dict) else each for each in value or ()]
    return ", ".join(names[id_] for id_ in ids if id_ in names)


def _legs(value: Any, names: Names) -> str:
    return ", ".join(_leg(leg, names) for leg in value or ())


def _leg(leg: dict[str, Any], names: Names) -> str:
    id_ = leg.get("account_id") or leg.get("member_id")
    preset = leg.get("top_up_to_units")
    return f"{names.get(id_, 'somebody') if id_ else ''} {leg['amount_units'] if preset is None else f'up to {preset}'}"


def _outcomes(value: Any, names: Names) -> str:
    return ", ".join(f"{names.get(each['member_id'], 'somebody')} {each['outcome']}" for each in value or ())


def _offers(value: Any, _: Names) -> str:
    return ", ".join(f"{each['plan']} {each['price_units']} POP" for each in value or ())


def _until(value: Any, _: Names) -> str:
    return f"until {value:%Y-%m-%d}" if value else ""


_TELLING: dict[str, Callable[[Any, Names], str]] = {
    "code": _worded("because: {}"),
    "name": _worded("“{}”"),
    "group_name": _worded("“{}”"),
    "purpose": _plain,
    "amount_units": _units,
    "mode": _mode,
    "members": _meant,
    "token": lambda value, _: "with a token" if value else "",  # never its value
    "plan": _plain,
    "plans": _offers,
    "price_units": _units,
    "email": _plain,
    "account_id": _named("{}’s account"),
    "source_id": _named("{}’s account"),
    "legs": _legs,
    "outcomes": _outcomes,
    "owner_id": _named("group of {}"),
    "member_id": _named("member {}"),
    "recipient_id": _named("to {}"),
    "subscriber_id": _named("{}"),
    "fax_number": _worded("fax number {}"),  # a plan only has a boolean of this name
    "expires_at": _until,
}
"""The fields that are told, in this order, and their wording."""


def _topic(seen: Seen) -> str:
    return seen.topic.removeprefix("popfax.")


def _style(seen: Seen) -> str:
    return "yellow" if "refused" in seen.type or "release" in seen.type else ""
