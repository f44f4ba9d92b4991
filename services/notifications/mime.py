"""A mail's bytes: written line by line, and parsed back before they are used.

Python's `email` folds long headers, not always correctly: a display name of 78 characters without a space becomes an
empty line, which ends the headers (CPython gh-142006), so that what somebody chose as a name begins the body. So
headers are folded here: a name that is not short and plain becomes encoded words (RFC 2047), and no line depends on the
text's length. Nor is this taken on trust: bytes that do not parse back as intended are never sent.
"""

import re
from base64 import b64encode
from binascii import b2a_qp
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.errors import NonASCIILocalPartDefect
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import Message
from email.parser import Parser
from email.policy import SMTPUTF8
from typing import Any

MAX_LINE = 998
"""Octets that a line may have, without its end (RFC 5322)."""

_LINE = 76
_WORD = 45
"""Octets of text in an encoded word: 60 characters of base64, 72 with what is around them, of 75 allowed."""

_FOLD = re.compile(r"\r\n(?= )")
_ATOMS = re.compile(r"[A-Za-z0-9'-]+( [A-Za-z0-9'-]+)*")
_PLAIN = re.compile(r"[ -~]*")


class Unsound(Exception):
    """A mail's bytes do not parse back as intended. The text says what differs, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A name and an address, which is canonical and so needs no quotes."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Content:
    """A mail's intended content. `headers` are those that our own code makes, in visible ASCII."""

    sender: Mailbox
    to: Mailbox
    subject: str
    headers: Mapping[str, str]
    text: str
    html: str
    boundary: str


def write(content: Content) -> bytes:
    """Return a mail's bytes, the same for the same content. Raises `Unsound` if they don't parse back as intended."""
    headers = {
        "From": _mailbox("From", content.sender),
        "To": _mailbox("To", content.to),
        "Subject": _text("Subject", content.subject),
        **content.headers,
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/alternative; boundary="{content.boundary}"',
    }
    begin = f"\r\n--{content.boundary}"
    written = b"".join(
        (
            "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode(),
            f"{begin}\r\n".encode(),
            _part("plain", content.text),
            f"{begin}\r\n".encode(),
            _part("html", content.html),
            f"{begin}--\r\n".encode(),
        )
    )
    check(written, content, list(headers))
    return written


def _part(kind: str, text: str) -> bytes:
    """Write a part in ASCII and short lines, whatever its text."""
    head = f'Content-Type: text/{kind}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    return head.encode() + b2a_qp(text.replace("\n", "\r\n").encode(), istext=True)


def _mailbox(header: str, mailbox: Mailbox) -> str:
    address = f"<{mailbox.address}>"
    if not mailbox.name:
        return address
    phrase = mailbox.name
    if not _ATOMS.fullmatch(phrase):
        phrase = '"' + re.sub(r'(["\\])', r"\\\1", phrase) + '"'
    if _fits(header, f"{phrase} {address}", mailbox.name):
        return f"{phrase} {address}"
    return "\r\n ".join([*_encoded_words(mailbox.name), address])


def _text(header: str, text: str) -> str:
    return text if _fits(header, text, text) else "\r\n ".join(_encoded_words(text))


def _fits(header: str, value: str, text: str) -> bool:
    """Return whether a value needs no encoding: plain, unlike an encoded word, without spaces to lose, and short."""
    return (
        bool(_PLAIN.fullmatch(text))
        and "=?" not in text
        and text == " ".join(text.split())
        and len(header) + len(": ") + len(value) <= _LINE
    )


def _encoded_words(text: str) -> Iterator[str]:
    """Cut a text into encoded words, never within a character."""
    word = b""
    for character in text:
        octets = character.encode()
        if len(word) + len(octets) > _WORD:
            yield f"=?utf-8?b?{b64encode(word).decode()}?="
            word = b""
        word += octets
    yield f"=?utf-8?b?{b64encode(word).decode()}?="


# --- and read back ----------------------------------------------------------------------------------------------------


def check(written: bytes, content: Content, names: list[str]) -> None:
    """Raise `Unsound` unless the bytes are exactly a mail with these headers and the intended content."""
    _expect(not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", written), "a line's end within a line")
    lines = written.split(b"\r\n")
    _expect(max(map(len, lines)) <= MAX_LINE, "a line too long")
    head = lines[: lines.index(b"")]
    begun = [line.partition(b":")[0].decode() for line in head if line[:1] not in (b" ", b"\t")]
    _expect(begun == names, "other headers")
    _expect(all(line.strip() for line in head), "a header's line without text")
    try:
        _check_meaning(Parser().parsestr(written.decode()), content)
    except Unsound:
        raise
    except Exception as error:  # whatever confuses this parser would confuse others too
        raise Unsound("unreadable") from error


def _check_meaning(read: Message, content: Content) -> None:
    _expect(not any(part.defects for part in read.walk()), "a defect")
    _expect(_only("From", read["From"]) == content.sender, "another sender")
    _expect(_only("To", read["To"]) == content.to, "another recipient")
    _expect(str(_read("Subject", read["Subject"])) == content.subject, "another subject")
    _expect(all(read[name] == value for name, value in content.headers.items()), "another header")
    parts = [(part.get_content_type(), _said(part)) for part in read.walk()][1:]
    _expect(parts == [("text/plain", content.text), ("text/html", content.html)], "another text")


def _read(name: str, value: str) -> Any:
    """Read a header's value as it was written, folds and all."""
    header = SMTPUTF8.header_factory(name, _FOLD.sub("", value))
    defects = [each for each in header.defects if not isinstance(each, NonASCIILocalPartDefect)]  # that is RFC 6531's
    _expect(not defects, "a defect of a header")
    return header


def _only(header: str, value: str) -> Mailbox | None:
    """Read a header's only mailbox. Python's own parser puts too many spaces into a name of several words."""
    addresses: tuple[Address, ...] = _read(header, value).addresses
    name = _FOLD.sub("", value).rpartition("<")[0].rstrip(" ")
    quoted = name.startswith('"')
    name = re.sub(r"\\(.)", r"\1", name[1:-1]) if quoted else str(make_header(decode_header(name)))
    return Mailbox(name, addresses[0].addr_spec) if len(addresses) == 1 else None


def _said(part: Message) -> str:
    payload = part.get_payload(decode=True)
    return payload.decode(part.get_content_charset("")).replace("\r\n", "\n") if isinstance(payload, bytes) else ""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unsound(otherwise)
