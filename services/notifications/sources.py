"""The sources of mails: one TOML file each, with every sentence in both languages.

A source is a list of blocks (title, text, note, figure, button, fact, people: those whom the mail names, and how many
more they are). The same blocks become the text part and,
through MJML, the HTML part, both as Jinja2 templates: what differs from mail to mail is filled in later, so MJML runs
once for each source and language. A translator writes plain sentences: `**…**` is bold, and French no-break spaces are
added here. A block with `when` is included only if that is true.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from mjml import mjml2html

from services.notifications.domain import Template

SIGNATURE = {"fr": "L’équipe Popfax", "en": "The Popfax team"}
COLON = {"fr": "\u00a0: ", "en": ": "}

_PLACEHOLDER = re.compile(r"\{\{ (.+?) \}\}")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_BEFORE = re.compile(r" (?=[:;!?»])")
_UNITS = re.compile(r"(?<=POP) (?=unit)")
_TAG = re.compile(r"(<[a-z][a-z0-9]*) ")
"""Where a line may end: before a tag's attributes."""
_AFTER = re.compile(r"(?<=«) ")


@dataclass(frozen=True, slots=True)
class Source:
    """A mail in one language, as Jinja2 templates. `nobody` is what an erased person is called in it."""

    subject: str
    text: str
    html: str
    nobody: str


@cache
def source(template: Template, language: str) -> Source:
    """Read a mail's source. Raises `KeyError` for a language that it lacks."""
    mail = tomllib.loads((files(__package__) / "templates" / f"{template}.toml").read_text(encoding="utf-8"))
    own = {name: _typeset(mail[name][language], language) for name in ("subject", "preview", "why")}
    blocks = list(_with_tables([_block(block, language) for block in mail["block"]]))
    return Source(
        own["subject"],
        _text(blocks, own["why"], language),
        _html(blocks, own, language),
        mail["nobody"][language] if "nobody" in mail else "",
    )


def _block(block: dict[str, Any], language: str) -> dict[str, Any]:
    return {"when": None, **block, "text": _typeset(block[language], language)}


def _typeset(sentence: str, language: str) -> str:
    """Make spaces no-break where French requires it, and within what units are called."""
    sentence = _UNITS.sub("\u00a0", sentence)
    return _AFTER.sub("\u00a0", _BEFORE.sub("\u00a0", sentence)) if language == "fr" else sentence


def _text(blocks: Sequence[dict[str, Any]], why: str, language: str) -> str:
    """Return the text part: paragraphs separated by empty lines."""
    parts = [_if(block["when"], "\n" + _plain(block, COLON[language])) for block in blocks]
    return _BOLD.sub(r"\1", "".join(parts)) + f"\n{SIGNATURE[language]}\n\n-- \n{why}\n"


def _plain(block: dict[str, Any], colon: str) -> str:
    """Return a block's lines in the text part."""
    if block["kind"] == "facts":
        return "".join(_if(fact["when"], f"{fact['text']}{colon}{fact['value']}\n") for fact in block["facts"])
    if block["kind"] == "people":
        return _PEOPLE.format(colon=colon, more=block["text"])
    if block["kind"] == "button":
        return f"{block['text']}{colon.rstrip()}\n{{{{ link }}}}\n"
    return f"{block['text']}\n"


_PEOPLE = (
    "{{% for name, units in named %}}- {{{{ name }}}}{{% if units %}}{colon}{{{{ units | units }}}}{{% endif %}}\n"
    "{{% endfor %}}{{% if more %}}{more}\n{{% endif %}}"
)


def _if(when: str | None, part: str) -> str:
    return f"{{% if {when} %}}{part}{{% endif %}}" if when else part


def _html(blocks: Sequence[dict[str, Any]], own: dict[str, str], language: str) -> str:
    """Return the HTML part, compiled by MJML, through which placeholders pass as plain text; its lines are broken.

    The title also becomes an attribute, in which MJML's port writes a no-break space as an escape that no browser
    reads, and which can't contain markup.
    """
    own = {**own, "subject": _PLACEHOLDER.sub(r"{{ (\1) | bare }}", own["subject"]).replace("\u00a0", " ")}
    html = mjml2html(
        _layouts()
        .get_template("layout.mjml")
        .render(
            language=language,
            blocks=blocks,
            signature=SIGNATURE[language],
            **{name: _marked(sentence) for name, sentence in own.items()},
        ),
        fonts={},  # none is fetched from elsewhere
    )
    return _TAG.sub(r"\1\n", html)


def _with_tables(blocks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Put consecutive facts into one table."""
    for is_fact, run in groupby(blocks, lambda block: block["kind"] == "fact"):
        if is_fact:
            yield {"kind": "facts", "when": None, "facts": list(run)}
        else:
            yield from run


def _marked(sentence: str) -> Markup:
    """Convert a sentence to HTML, leaving placeholders as they are, quotes included."""
    text = str(escape(sentence)).replace("&#39;", "'")
    return Markup(_BOLD.sub(r"<strong>\1</strong>", text))  # noqa: S704 - escaped above


@lru_cache(maxsize=1)
def _layouts() -> Environment:
    made = Environment(loader=PackageLoader("services.notifications"), autoescape=True, undefined=StrictUndefined)
    made.filters["marked"] = _marked
    return made
