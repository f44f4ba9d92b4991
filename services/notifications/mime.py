"""A mail's bytes: written line by line, and parsed back before they are used.

Python's `email` folds long headers, not always correctly: a display name of 78 characters without a space becomes an
empty line, which ends the headers (CPython gh-142006), so that what somebody chose as a name begins the body. So
headers are folded here: a name that is not short and plain becomes encoded words (RFC 2047), and no line depends on the
text's length. Nor is this taken on trust: bytes that do not parse back as intended are never sent.

They are read back by a reader of exactly the forms that are written here, fifty times cheaper than Python's parser. It
knows one verdict: these bytes say what is meant. Whatever it does not recognise is left to Python's parser (ADR 48).
"""

import re
from base64 import b64decode, b64encode
from binascii import a2b_qp, b2a_qp
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
_HEAD = b'Content-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n'


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
    written, names = compose(content)
    check(written, content, names)
    return written


def compose(content: Content) -> tuple[bytes, list[str]]:
    """Return a mail's bytes, unchecked, and the names of its headers."""
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
            _plain_part("html", content.html) or _part("html", content.html),
            f"{begin}--\r\n".encode(),
        )
    )
    return written, list(headers)


def _part(kind: str, text: str) -> bytes:
    """Write a part in ASCII and short lines, whatever its text."""
    return _HEAD % (kind.encode(), b"quoted-printable") + b2a_qp(text.replace("\n", "\r\n").encode(), istext=True)


def _plain_part(kind: str, text: str) -> bytes | None:
    """Write a part as it is, for a quarter of the cost, if it is ASCII in lines that are not too long."""
    if not text.isascii() or "\r" in text or max(map(len, text.split("\n"))) > MAX_LINE:
        return None
    return _HEAD % (kind.encode(), b"7bit") + text.replace("\n", "\r\n").encode()


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
    ends = written.count(b"\r\n")
    _expect(written.count(b"\r") == written.count(b"\n") == ends and 0 not in written, "a line's end within a line")
    _expect(max(map(len, written.split(b"\r\n"))) <= MAX_LINE, "a line too long")
    if not reads_back(written, content, names):
        parse_back(written, content, names)


# --- by a reader of what is written above -----------------------------------------------------------------------------

_OWN = frozenset({"Date", "Message-ID", "Auto-Submitted"})
_OWN_VALUE = re.compile(r"[!-~]+( [!-~]+)*")
_BOUNDARY = re.compile(r"[A-Za-z0-9-]{1,60}")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"{_ATOM}(\.{_ATOM})*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_ENCODED = re.compile(r"=\?utf-8\?b\?([A-Za-z0-9+/]+={0,2})\?=")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PART = b'\r\nContent-Type: text/%b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n'


def reads_back(written: bytes, content: Content, names: list[str]) -> bool:
    """Return whether the bytes are a mail of the form that `write` uses, with the intended content.

    False says nothing against them: they may be sound, but of another form. Line ends have been checked.
    """
    head, _, body = written.partition(b"\r\n\r\n")
    if not written.isascii() or names != ["From", "To", "Subject", *content.headers, "MIME-Version", "Content-Type"]:
        return False
    fields = [line.partition(": ") for line in head.decode().replace("\r\n ", " ").split("\r\n")]
    if [name for name, _, _ in fields] != names:
        return False
    sender, to, subject, *own, version, kind = (value for _, _, value in fields)
    try:
        return (
            _is_mailbox(sender, content.sender)
            and _is_mailbox(to, content.to)
            and _decoded(subject) == content.subject
            and own == [*content.headers.values()]
            and content.headers.keys() <= _OWN
            and all(map(_OWN_VALUE.fullmatch, own))
            and (version, kind) == ("1.0", f'multipart/alternative; boundary="{content.boundary}"')
            and _BOUNDARY.fullmatch(content.boundary) is not None
            and _are_parts(body, content)
        )
    except ValueError:  # neither base64 nor UTF-8
        return False


def _is_mailbox(value: str, mailbox: Mailbox) -> bool:
    phrase, _, address = value.rpartition(" ")
    if address != f"<{mailbox.address}>" or not _ADDRESS.fullmatch(mailbox.address) or "=?" in mailbox.address:
        return False
    if quoted := _QUOTED.fullmatch(phrase):
        return bool(_PLAIN.fullmatch(phrase)) and re.sub(r"\\(.)", r"\1", quoted[1]) == mailbox.name != ""
    return bool(_ATOMS.fullmatch(phrase) or _ENCODED.match(phrase)) and _decoded(phrase) == mailbox.name


def _decoded(value: str) -> str | None:
    """Return what a value says that is all encoded words, or none; None if it is neither. Raises `ValueError`."""
    words = [_ENCODED.fullmatch(word) for word in value.split(" ")]
    if all(words):
        text = "".join(b64decode(word[1], validate=True).decode() for word in words if word)
        return None if _CONTROL.search(text) else text
    return value if _OWN_VALUE.fullmatch(value) and "=?" not in value else None


def _are_parts(body: bytes, content: Content) -> bool:
    pieces = body.split(b"--" + content.boundary.encode())
    if len(pieces) != 4:
        return False
    before, plain, html, after = pieces
    return (
        (before, after) == (b"", b"--\r\n")
        and _is_part(plain, b"plain", content.text)
        and _is_part(html, b"html", content.html)
    )


def _is_part(piece: bytes, kind: bytes, text: str) -> bool:
    quoted, as_is, end = _PART % (kind, b"quoted-printable"), _PART % (kind, b"7bit"), b"\r\n"
    if not piece.endswith(end):
        return False
    if piece.startswith(as_is):
        said = piece[len(as_is) : -len(end)]
    elif piece.startswith(quoted):
        said = a2b_qp(piece[len(quoted) : -len(end)])
    else:
        return False
    return said.decode().replace("\r\n", "\n") == text


# --- by Python's parser -----------------------------------------------------------------------------------------------


def parse_back(written: bytes, content: Content, names: list[str]) -> None:
    """Raise `Unsound` unless Python's parser finds these headers and the intended content. Lines have been checked."""
    lines = written.split(b"\r\n")
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
