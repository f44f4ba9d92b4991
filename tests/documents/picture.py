"""The README's picture: services, topics and databases. The topics are the code's."""

from html import escape

from popfax_contracts.topics import TOPICS, Principal, Topic

COLUMNS = {
    Principal.GROUPS: ("who may do what to whom", "runs the saga and the transfers", "serves the page and the API"),
    Principal.NOTIFICATIONS: ("mails and their delivery", "", ""),
    Principal.LEDGER: ("accounts in units, holds,", "transfers: double entry", ""),
    Principal.PROVISIONING: ("subscribers, plans, prices,", "fax numbers, options, expiry", ""),
}
"""The services from left to right, and what each does."""

WIDTH, COLUMN, GAP = 960, 218, 16
KAFKA_Y, LINE = 104, 21
MOST = max(sum(topic.service is service for topic in TOPICS) for service in COLUMNS)
SERVICE_Y = KAFKA_Y + 62 + MOST * LINE + 44
PEOPLE_Y = SERVICE_Y + 176
HEIGHT = PEOPLE_Y + 56

COMMAND, EVENT, COMPACTED = "#b3122d", "#1f4e79", "#2d6a4f"

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.name { font-size: 15px; font-weight: 600 }
.small { font-size: 11.5px; fill: #57606a }
.middle { text-anchor: middle }
.box { fill: #fff; stroke: #8c959f }
.kafka { fill: #f6f8fa; stroke: #d0d7de }
.line { stroke: #57606a; stroke-width: 1.3; fill: none; marker-end: url(#tip) }
""".strip()


TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker>'
)


def svg() -> str:
    """Return the picture."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            "<title>Four services, the Kafka topics between them, and one database per service</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{TIP}</defs>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff"/>',
            *_platform(),
            *_kafka(),
            *(line for number, service in enumerate(COLUMNS) for line in _column(_x(number), service)),
            *_people(),
            "</svg>\n",
        ]
    )


def _x(number: int) -> int:
    return GAP + 4 + number * (COLUMN + GAP)


def _platform() -> list[str]:
    return [
        f'<rect class="box" x="{WIDTH / 2 - 130}" y="16" width="260" height="40" rx="20"/>',
        f'<text class="name middle" x="{WIDTH / 2}" y="41">Popfax platform</text>',
        f'<path class="line" style="stroke: {COMMAND}" d="M{WIDTH / 2 - 50} 56V{KAFKA_Y - 2}"/>',
        _text(WIDTH / 2 - 58, 84, "publishes commands", "small", f"text-anchor: end; fill: {COMMAND}"),
        f'<path class="line" style="stroke: {EVENT}" d="M{WIDTH / 2 + 50} {KAFKA_Y}V58"/>',
        _text(WIDTH / 2 + 58, 84, "follows events", "small", f"fill: {EVENT}"),
    ]


def _kafka() -> list[str]:
    height = 62 + MOST * LINE
    return [
        f'<rect class="kafka" x="8" y="{KAFKA_Y}" width="{WIDTH - 16}" height="{height}" rx="8"/>',
        _text(GAP + 4, KAFKA_Y + 22, "Kafka", "name"),
        _text(GAP + 70, KAFKA_Y + 22, "commands, asked of the service", "small", f"fill: {COMMAND}"),
        _text(GAP + 270, KAFKA_Y + 22, "events, told by the service", "small", f"fill: {EVENT}"),
        _text(
            GAP + 446, KAFKA_Y + 22, "state, told by it: the newest record of each key", "small", f"fill: {COMPACTED}"
        ),
    ]


def _column(x: int, service: Principal) -> list[str]:
    lines = [_text(x, KAFKA_Y + 46, f"popfax.{service}.", "small")]
    for number, topic in enumerate(topic for topic in TOPICS if topic.service is service):
        lines.append(_topic(x, KAFKA_Y + 46 + (number + 1) * LINE, topic))
    bottom = KAFKA_Y + 62 + MOST * LINE
    lines += [
        f'<path class="line" style="stroke: {COMMAND}" d="M{x + 60} {bottom}V{SERVICE_Y - 2}"/>',
        f'<path class="line" style="stroke: {EVENT}" d="M{x + COLUMN - 60} {SERVICE_Y}V{bottom + 2}"/>',
        f'<rect class="box" x="{x}" y="{SERVICE_Y}" width="{COLUMN}" height="130" rx="8"/>',
        _text(x + COLUMN / 2, SERVICE_Y + 24, service.value, "name middle"),
        *(
            _text(x + COLUMN / 2, SERVICE_Y + 44 + 16 * n, words, "small middle")
            for n, words in enumerate(COLUMNS[service])
        ),
        *_database(x + COLUMN / 2, SERVICE_Y + 92),
    ]
    return lines


def _topic(x: int, y: int, topic: Topic) -> str:
    colour = COMMAND if topic.commands else COMPACTED if topic.compacted else EVENT
    name = topic.name.split(".", 2)[2]
    words = f"{name}  ({topic.writer.value})" if topic.commands and topic.writer.value not in name else name
    return _text(x, y, words, "", f"fill: {colour}")


def _database(x: float, y: float) -> list[str]:
    left, right = x - 52, x + 52
    return [
        f'<path class="box" d="M{left} {y}v24a52 6 0 0 0 104 0v-24"/>',
        f'<ellipse class="box" cx="{x}" cy="{y}" rx="{(right - left) / 2}" ry="6"/>',
        _text(x, y + 21, "PostgreSQL", "small middle"),
    ]


def _people() -> list[str]:
    first, last = _x(0), _x(1) + COLUMN
    middle = (first + last) / 2
    bottom = SERVICE_Y + 130
    return [
        f'<rect class="box" x="{middle - 130}" y="{PEOPLE_Y}" width="260" height="40" rx="20"/>',
        f'<text class="name middle" x="{middle}" y="{PEOPLE_Y + 25}">owners and members</text>',
        f'<path class="line" d="M{middle - 70} {PEOPLE_Y}V{bottom + 2}"/>',
        _text(middle - 78, PEOPLE_Y - 17, "page, API", "small", "text-anchor: end"),
        f'<path class="line" d="M{middle + 70} {bottom}V{PEOPLE_Y - 2}"/>',
        _text(middle + 78, PEOPLE_Y - 17, "mail", "small"),
    ]


def _text(x: float, y: float, words: str, kind: str, style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<text class="{kind}" x="{x}" y="{y}"{styled}>{escape(words)}</text>'
