"""A mail's bytes: whatever people are called, they say what is meant, and what would not is never sent."""

import re
from collections.abc import Callable
from dataclasses import replace
from email.message import EmailMessage
from email.parser import Parser
from email.policy import SMTPUTF8
from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy.operator.cli.preview import Sample, samples
from popfax_contracts.fields import Language, canonical_email
from services.notifications import mime
from services.notifications.mime import Content, Mailbox, Unsound, check, compose, parse_back, reads_back, write
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings

SETTINGS = NotificationsSettings.model_construct()
SAMPLES = [sample for language in Language for sample in samples(language)]
HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]

# What may be stored: all that older rules let through, which is any line.
STORED = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\x85"), min_size=1, max_size=100
)
LONG = st.builds(
    lambda letter, times: letter * times, st.sampled_from('xéß漢🎉 \u0301"\\<=?@,;:.\u202e'), st.integers(60, 100)
)
TRICKS = st.sampled_from(
    [
        "=?utf-8?q?a=0d=0aBcc:_b@c.example?=",
        "Bcc: b@c.example",
        '"',
        "\\",
        "<b@c.example>",
        "a, b",
        "(a",
        "=?",
        " ",
        "a  b",
    ]
)
NAMES = STORED | LONG | TRICKS
ADDRESSES = st.sampled_from(["a@b.example", f"{'x' * 64}@{'y' * 60}.example", "weiß@example.com", "a'{|}@b.example"])


def read(written: bytes) -> EmailMessage:
    found = Parser(policy=SMTPUTF8).parsestr(written.decode())
    assert isinstance(found, EmailMessage)
    return found


@given(st.sampled_from(SAMPLES), NAMES, NAMES, NAMES, NAMES, NAMES, ADDRESSES)
@example(SAMPLES[0], "x" * 78, "Martin", "a", "b", "c", "a@b.example")  # CPython gh-142006
@example(SAMPLES[0], "x" * 78 + ": y", "é" * 100, "x" * 100, "y" * 100, "z" * 100, "a@b.example")
def test_whatever_people_are_called_a_mail_has_its_headers_and_its_text(
    sample: Sample, first: str, last: str, about_first: str, about_last: str, group: str, address: str
) -> None:
    to = replace(sample.to, first_name=first, last_name=last, email=canonical_email(address))
    about = sample.about and replace(sample.about, first_name=about_first, last_name=about_last)
    params = sample.mail.params
    if params.get("group_name"):
        params = {**params, "group_name": group}
    written = render(replace(sample.mail, params=params), to, about, SETTINGS)
    head, _, body = written.partition(b"\r\n\r\n")
    assert [line.partition(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] != b" "] == HEADERS
    assert max(map(len, head.split(b"\r\n"))) < 320
    assert max(map(len, written.split(b"\r\n"))) <= 998
    assert all(len(word) <= 75 for word in re.findall(rb"=\?utf-8\?b\?[^?]*\?=", head))
    assert body.startswith(f"--popfax-{sample.mail.id.hex}\r\n".encode()), "nothing is before the first part"
    message = read(written)
    (found,) = message["To"].addresses
    assert found.addr_spec == to.email
    assert len(message.get_all("To", [])) == len(message.get_all("Subject", [])) == 1
    assert "Bcc" not in message
    text = message.get_body(("plain",))
    assert text is not None
    if sample.mail.template in ("welcome", "invitation"):
        assert "https://www.popfax.example/" in text.get_content()


def test_a_name_from_right_to_left_leaves_the_sentence_as_it_is() -> None:
    (sample,) = [each for each in SAMPLES if each.name == "invitation.right_to_left.en"]
    message = read(render(sample.mail, sample.to, sample.about, SETTINGS))
    assert message["Subject"].endswith(" invites you to join “\u2068مكتب 24/7\u2069”")
    text, html = (
        unescape(message.get_body((kind,)).get_content())  # type: ignore[union-attr]
        for kind in ("plain", "html")
    )
    assert "“\u2068مكتب 24/7\u2069”" in text
    assert "“<bdi>مكتب 24/7</bdi>”" in html
    title = re.search("<title>(.*)</title>", html)
    assert title is not None
    assert "bdi" not in title[1]
    assert "\u2068" in title[1]


def test_a_name_of_older_rules_turns_nothing() -> None:
    (sample,) = [each for each in SAMPLES if each.name == "invitation.en"]
    mail = replace(sample.mail, params={**sample.mail.params, "group_name": "\u2069\u202egnp.exe"})
    message = read(render(mail, sample.to, sample.about, SETTINGS))
    for kind in ("plain", "html"):
        body = message.get_body((kind,))
        assert body is not None
        assert "gnp.exe" in body.get_content()
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", body.get_content())


@pytest.mark.parametrize(
    ("html", "encoding"),
    [
        ("<p>a</p>\n", "7bit"),
        (f"<p>{'a' * 995}\n", "7bit"),
        (f"<p>{'a' * 996}\n", "quoted-printable"),
        ("<p>é</p>\n", "quoted-printable"),
        ("<p>a\rb</p>\n", "quoted-printable"),
        (".\n.a\nFrom b\n", "7bit"),
    ],
)
def test_html_travels_as_it_is_if_it_can(html: str, encoding: str) -> None:
    content = replace(MEANT, html=html)
    written, names = compose(content)
    assert written.count(f"Transfer-Encoding: {encoding}\r\n".encode()) == 1 + (encoding != "7bit")
    if "\r" not in html:
        check(written, content, names)
        assert reads_back(written, content, names)


# --- what would say anything else is found ---

MEANT = Content(
    sender=Mailbox("Popfax", "no-reply@popfax.example"),
    to=Mailbox("Anne Lefèvre", "anne@example.com"),
    subject="Reçu",
    headers={"Date": "Mon, 24 Feb 2031 09:30:00 +0000", "Message-ID": "<1@popfax.example>"},
    text="Bonjour\n",
    html="<p>Bonjour</p>\n",
    boundary="popfax-1",
)
WRITTEN = write(MEANT)
NAMES_MEANT = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]

BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "an empty line among the headers": lambda b: b.replace(b"To: ", b"To: \r\n\r\n", 1),
    "a line of spaces among the headers": lambda b: b.replace(b"To: ", b"To: \r\n \r\n ", 1),
    "one header more": lambda b: b.replace(b"Subject:", b"Bcc: b@c.example\r\nSubject:"),
    "one header less": lambda b: re.sub(rb"Message-ID: .*\r\n", b"", b),
    "another order": lambda b: re.sub(rb"(Date: .*\r\n)(Message-ID: .*\r\n)", rb"\2\1", b),
    "another recipient": lambda b: b.replace(b"anne@example.com", b"anna@example.com"),
    "a recipient more": lambda b: b.replace(b"<anne@example.com>", b"<anne@example.com>, <b@c.example>"),
    "another name": lambda b: b.replace(b"QW5uZS", b"QW5uYS"),
    "another sender": lambda b: b.replace(b"no-reply@", b"reply@"),
    "another subject": lambda b: b.replace(b"Subject: ", b"Subject: Re: "),
    "another date": lambda b: b.replace(b"09:30:00", b"09:31:00"),
    "another text": lambda b: b.replace(b"\r\n\r\nBonjour", b"\r\n\r\nBonsoir"),
    "another HTML": lambda b: b.replace(b"<p>Bonjour", b"<p>Bonsoir"),
    "a part more": lambda b: b.replace(b"--popfax-1--", b"--popfax-1\r\nContent-Type: text/x\r\n\r\nx\r\n--popfax-1--"),
    "a part less": lambda b: b[: b.rindex(b"--popfax-1\r\n")] + b"--popfax-1--\r\n",
    "no end": lambda b: b.replace(b"--popfax-1--", b""),
    "a bare line feed": lambda b: b.replace(b"\r\nBonjour", b"\nBonjour"),
    "a bare carriage return": lambda b: b.replace(b"\r\nBonjour", b"\r\nBon\rjour"),
    "a zero": lambda b: b.replace(b"Bonjour", b"Bon\0jour"),
    "a line too long": lambda b: b.replace(b"Subject: ", b"Subject: " + b" " * 998),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_finds(broken: Callable[[bytes], bytes]) -> None:
    check(WRITTEN, MEANT, NAMES_MEANT)
    bad = broken(WRITTEN)
    assert bad != WRITTEN
    with pytest.raises(Unsound) as caught:
        check(bad, MEANT, NAMES_MEANT)
    assert "anne" not in str(caught.value).lower(), "an error must carry no personal data"


@pytest.mark.parametrize("value", ["a\r\nBcc: b@c.example", "a\nb", "a\rb", "é\r\nb", "a\r\n\r\nb"])
@pytest.mark.parametrize("where", ["name", "subject", "address", "header"])
def test_nothing_that_begins_a_line_is_written(where: str, value: str) -> None:
    changed = {
        "name": lambda: replace(MEANT, to=Mailbox(value, "anne@example.com")),
        "subject": lambda: replace(MEANT, subject=value),
        "address": lambda: replace(MEANT, to=Mailbox("Anne", f"{value}@example.com")),
        "header": lambda: replace(MEANT, headers={**MEANT.headers, "Date": value}),
    }[where]()
    try:
        written = write(changed)
    except Unsound:
        return
    assert where in ("name", "subject")
    assert b"\r\nBcc" not in written, "it is within an encoded word"


# --- our own reader and Python's parser -------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["utf-8?b?YQ==", "utf-8?q?a", "utf-8?b?/w==", "utf-8?b?DQo=", "utf-8?b?YR==", "iso-8859-1?b?YQ=="]
).map("=?{}?=".format)
TOKENS = st.sampled_from(
    ["--popfax-1", "--popfax-1--", "=3D", '"a"', "<b@c.example>", "(a)", *",;:@", "Bcc:", "=0D=0A"]
)
SPACES = st.sampled_from(["\r\n", "\r\n ", "\r\n\t", "\r\n\r\n", "\r\n \r\n", " ", "  ", "\t", "=\r\n"])
PIECES = WORDS | TOKENS | SPACES
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=5).map("".join)
MAILBOXES = st.builds(
    Mailbox,
    NAMES | TEXTS,
    ADDRESSES | st.sampled_from(["=?utf-8?q?a?=@b.example", '"a b"@c.example', "a..b@c.example", "a@[1.2.3.4]", "a"]),
)
CONTENTS = st.builds(
    replace,
    st.just(MEANT),
    sender=st.just(MEANT.sender) | MAILBOXES,
    to=MAILBOXES,
    subject=NAMES | TEXTS,
    headers=st.just(MEANT.headers)
    | st.dictionaries(st.sampled_from(["Date", "Message-ID", "Auto-Submitted", "Bcc", "Subject"]), TEXTS),
    text=TEXTS,
    html=TEXTS,
    boundary=st.just("popfax-1") | TEXTS,
)


def accepts(written: bytes, content: Content, names: list[str]) -> bool:
    """Whether Python's parser finds in these bytes what is meant."""
    try:
        parse_back(written, content, names)
    except Unsound:
        return False
    return True


def lines_hold(written: bytes) -> bool:
    return not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", written) and max(map(len, written.split(b"\r\n"))) <= 998


def assert_python_agrees(written: bytes, content: Content, names: list[str]) -> None:
    """What our reader recognises, Python's parser reads likewise."""
    if lines_hold(written) and reads_back(written, content, names):
        parse_back(written, content, names)


@settings(max_examples=300)
@given(CONTENTS)
def test_what_our_reader_recognises_in_hostile_content_pythons_parser_reads_likewise(content: Content) -> None:
    written, names = compose(content)
    assert_python_agrees(written, content, names)


@settings(max_examples=300)
@given(
    CONTENTS | st.just(MEANT), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), TEXTS), min_size=1, max_size=3)
)
def test_what_our_reader_recognises_in_broken_bytes_pythons_parser_reads_likewise(
    content: Content, cuts: list[tuple[float, int, str]]
) -> None:
    written, names = compose(content)
    for where, length, put in cuts:
        start = int(where * len(written))
        written = written[:start] + put.encode() + written[start + length :]
    assert_python_agrees(written, content, names)


@given(st.sampled_from(["name", "subject", "text"]), NAMES)
def test_bytes_that_say_something_else_are_recognised_for_nothing_else(where: str, said: str) -> None:
    """Our reader compares with what is meant: what was written for one content is no mail with another one."""
    other = {
        "name": lambda: replace(MEANT, to=Mailbox(said, MEANT.to.address)),
        "subject": lambda: replace(MEANT, subject=said),
        "text": lambda: replace(MEANT, text=said),
    }[where]()
    written, names = compose(other)
    assert reads_back(written, other, names) <= accepts(written, other, names)
    assert not reads_back(written, MEANT, names)
    assert not reads_back(WRITTEN, other, names)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_python_s_parser_finds_by_itself(broken: Callable[[bytes], bytes]) -> None:
    bad = broken(WRITTEN)
    assert not reads_back(bad, MEANT, NAMES_MEANT)
    assert not (lines_hold(bad) and accepts(bad, MEANT, NAMES_MEANT))


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.name for sample in SAMPLES])
def test_what_we_write_is_read_back_without_pythons_parser(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mime, "parse_back")
    render(sample.mail, sample.to, sample.about, SETTINGS)


@given(NAMES, NAMES)
def test_whatever_people_are_called_our_reader_recognises_it(name: str, subject: str) -> None:
    content = replace(MEANT, to=Mailbox(name, MEANT.to.address), subject=subject)
    written, names = compose(content)
    assert reads_back(written, content, names)
    parse_back(written, content, names)
