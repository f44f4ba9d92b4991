"""What the mails say: every one, in both languages, as text and as HTML, from one source."""

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from markupsafe import escape
from mjml import mjml2html
from pydantic import HttpUrl
from typer.testing import CliRunner

from deploy.operator.cli import app, preview
from deploy.operator.cli.preview import BOB, CAUSES, Sample, samples
from popfax_contracts.fields import Language
from popfax_contracts.groups import MemberLeft
from services.notifications import rendering, sources
from services.notifications.domain import Template
from services.notifications.rendering import render
from services.notifications.settings import NotificationsSettings

SETTINGS = NotificationsSettings.model_construct()
SAMPLES = [sample for language in Language for sample in samples(language)]
BY_NAME = {sample.name: sample for sample in SAMPLES}
TEMPLATES = Path(sources.__file__).parent / "templates"

NBSP = "\u00a0"


class _Visible(HTMLParser):
    """What a reader sees of an HTML part, preheader and title left out; and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []
        self.tags: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += "" if tag in ("strong", "bdi") else " "
        given = dict(attrs)
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag in ("style", "title") or "display:none" in (given.get("style") or ""):
            self._hidden.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def content(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def visible(html: str) -> _Visible:
    parser = _Visible()
    parser.feed(html)
    return parser


each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def test_every_template_is_seen_in_every_language() -> None:
    assert {(s.mail.template, s.to.language) for s in SAMPLES} == {
        (t, lang.value) for t in Template for lang in Language
    }
    assert len(BY_NAME) == len(SAMPLES)


def test_every_source_is_a_templates() -> None:
    assert sorted(path.stem for path in TEMPLATES.glob("*.toml")) == sorted(Template)


@each_sample
def test_no_placeholder_is_left(sample: Sample) -> None:
    message = sample.message(SETTINGS)
    for text in (message["subject"], content(message, "plain"), content(message, "html")):
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\*\*|None|Undefined", text)


@each_sample
def test_text_and_html_say_the_same(sample: Sample) -> None:
    message = sample.message(SETTINGS)
    seen = visible(content(message, "html"))
    (brand, *said) = seen.text.split()
    assert brand == "popfax"
    text = re.sub("[\u2068\u2069]", "", content(message, "plain"))  # the HTML part has elements for that
    for link in seen.links:
        assert f":\n{link}\n" in text.replace(NBSP, "")
        text = text.replace(f"\n{link}", "")
    # The text part has a colon after what is a label, and a rule before its last paragraph.
    assert [word.rstrip(":") for word in text.split() if word not in (":", "--", "-")] == [
        w.rstrip(":") for w in said if w != ":"
    ]


@each_sample
def test_a_name_that_looks_like_markup_is_text(sample: Sample) -> None:
    nasty = replace(sample.to, first_name="<b>Bob", last_name='& "Co"</b>')
    about = None if sample.about is None else replace(sample.about, first_name="<script>x", last_name="'&{{ 7*7 }}")
    made = replace(sample, to=nasty, about=about).message(SETTINGS)
    html = content(made, "html")
    assert visible(html).tags.count("b") == 0
    assert "<script" not in html
    assert "&lt;b&gt;Bob" in html
    assert "<b>Bob" in content(made, "plain")
    assert "49" not in visible(html).text


@each_sample
def test_the_same_mail_has_the_same_bytes(sample: Sample) -> None:
    def digest() -> str:
        return sha256(render(sample.mail, sample.to, sample.about, SETTINGS)).hexdigest()

    before = digest()
    rendering._parts.cache_clear()
    sources.source.cache_clear()
    assert digest() == before


def test_another_process_makes_the_same_bytes() -> None:
    program = "from tests.unit.test_mails import digest_of_samples; print(digest_of_samples())"
    elsewhere = subprocess.check_output([sys.executable, "-c", program], cwd=Path(__file__).parents[2], text=True)
    assert elsewhere.strip() == digest_of_samples()


def digest_of_samples() -> str:
    """Return a hash of all samples' bytes."""
    return sha256(b"".join(render(s.mail, s.to, s.about, SETTINGS) for s in SAMPLES)).hexdigest()


@each_sample
def test_headers(sample: Sample) -> None:
    message = sample.message(SETTINGS)
    assert message["message-id"] == f"<{sample.mail.id}@popfax.example>"
    assert message["auto-submitted"] == "auto-generated"
    assert message["from"] == "Popfax <no-reply@popfax.example>"
    assert message["to"].addresses[0].addr_spec == sample.to.email
    assert "\n" not in message["subject"]


def sample_title(sample: Sample) -> str:
    return (
        str(sample.message(SETTINGS)["subject"])
        .replace("\u00ab\u00a0", "« ")
        .replace("\u00a0\u00bb", " »")
        .replace("\u00a0:", " :")
    )


@each_sample
def test_html_is_of_its_language_has_one_heading_and_fetches_nothing(sample: Sample) -> None:
    message = sample.message(SETTINGS)
    html = content(message, "html")
    part = message.get_body(("html",))
    assert part is not None
    assert part["content-transfer-encoding"] == "7bit", "its lines are short enough"
    assert re.search(rf'<html\s+lang="{sample.to.language}"', html)
    assert visible(html).tags.count("h1") == 1
    assert "color-scheme" in html
    assert "\\" not in html, "an escape of MJML's port that no browser reads"
    assert f'aria-label="{escape(sample_title(sample))}"'.encode("ascii", "xmlcharrefreplace").decode() in html
    assert not re.search(r"<img|<link|<script|@import|url\(", html)
    preheader = re.search(r'<div\s+style="display:none[^>]*>(.+?)</div>', html)
    assert preheader is not None
    assert len(preheader[1]) > 10


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.to.language == "fr"], ids=lambda sample: sample.name)
def test_french_has_no_break_spaces_where_it_wants_them(sample: Sample) -> None:
    message = sample.message(SETTINGS)
    seen = visible(content(message, "html")).text
    for text in (message["subject"], content(message, "plain"), seen):
        assert not re.search(r" [:;!?»]|« ", text)
        assert "'" not in text


def test_a_translator_writes_plain_spaces() -> None:
    for path in TEMPLATES.glob("*.toml"):
        assert NBSP not in path.read_text()


class TestFacts:
    """What each mail must say, whatever its words."""

    @pytest.mark.parametrize(
        ("name", "facts"),
        [
            (
                "welcome.fr",
                ["Lefèvre-Desrosières", "Envoyez et Recevez", "+33170000002", "3 mars 2031", "password?token=5e5e"],
            ),
            ("welcome.en", ["Lefèvre-Desrosières", "Send and Receive", "+33170000002", "3 Mar 2031"]),
            ("receipt.fr", ["Jean-Chrétien Ölafsson", "jean-chretien@etude-notariale.example", "1\u202f200\u00a0POP"]),
            ("receipt.en", ["Jean-Chrétien Ölafsson", "jean-chretien@etude-notariale.example", "1,200\u00a0POP"]),
            (
                "invitation.fr",
                [
                    "Lefèvre-Desrosières",
                    "Étude <Lefèvre & Associés>",
                    "3 mars 2031",
                    "ne change rien",
                    "invitation?id=",
                ],
            ),
            ("invitation.en", ["“Étude <Lefèvre & Associés>”", "3 Mar 2031", "changes nothing", "token=5e5e"]),
            ("invitation.unnamed.en", ["Anne-Sophie Lefèvre-Desrosières invites you to join their group"]),
            ("invitation.nobody.fr", ["Un abonné Popfax vous invite"]),
            ("invitation_accepted.en", ["<b>Bob & Co</b> has accepted"]),
            ("invitation_declined.nobody.fr", ["Quelqu’un a refusé"]),
            ("invitation_declined.nobody.en", ["Somebody has declined"]),
            ("invitation_expired.fr", ["Jean-Chrétien Ölafsson n’a pas répondu"]),
            ("units_received.fr", ["Lefèvre-Desrosières", "12\u202f500\u00a0POP"]),
            (
                "transfer_receipt.amount.en",
                ["150\u00a0POP", "Transferred to each: 50\u00a0POP", "Recipients: 3\u00a0members"],
            ),
            (
                "transfer_receipt.topped_up.en",
                [
                    "1,250\u00a0POP",
                    "Topped up to: 1,000\u00a0POP",
                    "Recipients: 2\u00a0members",
                    "Had as much already: 2\u00a0members",
                ],
            ),
            ("detached.left.en", ["As you asked", "Lefèvre-Desrosières"]),
            ("detached.group_closed.en", ["a subscriber who has left Popfax is closed"]),
            ("member_left.account_closed.fr", ["Un membre ne fait plus partie"]),
            ("member_left.detached.en", ["You have removed Jean-Chrétien Ölafsson"]),
            ("expiring.7.fr", ["3 mars 2031", "7\u00a0jours"]),
            ("expiring.1.fr", ["25 févr. 2031", "1\u00a0jour"]),
            ("expired.en", ["24 Feb 2031", "units are kept"]),
            ("extended.units.en", ["3 Mar 2031", "1,200\u00a0POP"]),
        ],
    )
    def test_says(self, name: str, facts: list[str]) -> None:
        text = content(BY_NAME[name].message(SETTINGS), "plain")
        assert [fact for fact in facts if fact not in text] == []

    @pytest.mark.parametrize(
        ("name", "unsaid"),
        [
            ("welcome.markup.en", "fax number"),
            ("welcome.en", "1,200"),
            ("units_received.en", "anne-sophie@"),
            ("invitation.nobody.en", "Lefèvre"),
            ("invitation.unnamed.fr", "«"),
            ("transfer_receipt.amount.en", "as much already"),
            ("extended.money.en", "POP"),
            ("expiring.1.fr", "jours"),
            ("detached.left.en", "removed"),
            ("detached.group_closed.en", "come back"),
        ],
    )
    def test_does_not_say(self, name: str, unsaid: str) -> None:
        message = BY_NAME[name].message(SETTINGS)
        assert unsaid not in content(message, "plain")
        assert unsaid not in visible(content(message, "html")).text

    def test_every_way_out_has_its_sentence(self) -> None:
        ways = {cause.via for _, cause in CAUSES if isinstance(cause, MemberLeft)}
        assert ways == {"detached", "left", "account_closed", "group_closed"}


def test_links_go_where_the_settings_say() -> None:
    settings = NotificationsSettings.model_construct(
        password_link=HttpUrl("https://here.example/pw"), invitation_link=HttpUrl("https://here.example/inv")
    )
    for name, link in (
        ("welcome.en", "https://here.example/pw?token="),
        ("invitation.en", "https://here.example/inv?id="),
    ):
        message = BY_NAME[name].message(settings)
        assert link in content(message, "plain")
        (found,) = visible(content(message, "html")).links
        assert found.startswith(link)


def test_a_plan_without_a_name_is_called_by_its_own() -> None:
    sample = BY_NAME["receipt.en"]
    mail = replace(sample.mail, params={**sample.mail.params, "plan": "send_<all>"})
    message = replace(sample, mail=mail).message(SETTINGS)
    assert "send_<all>" in content(message, "plain")
    assert "send_&lt;all&gt;" in content(message, "html")


def test_a_parameter_that_is_missing_is_an_error() -> None:
    sample = BY_NAME["receipt.en"]
    with pytest.raises(jinja2.UndefinedError):
        replace(sample, mail=replace(sample.mail, params={})).message(SETTINGS)


def test_a_language_that_no_mail_is_written_in_is_an_error() -> None:
    sample = BY_NAME["receipt.en"]
    with pytest.raises(KeyError):
        replace(sample, to=replace(sample.to, language="xx")).message(SETTINGS)


def test_mjml_works_once_for_a_mail_and_language(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(source: str, **more: Any) -> str:
        calls.append(source)
        return mjml2html(source, **more)

    monkeypatch.setattr(sources, "mjml2html", counting)
    rendering._parts.cache_clear()
    sources.source.cache_clear()
    for sample in (BY_NAME["welcome.fr"], BY_NAME["welcome.markup.fr"], BY_NAME["welcome.fr"], BY_NAME["welcome.en"]):
        sample.message(SETTINGS)
    assert len(calls) == 2


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_sentence_stands_in_both_languages(path: Path) -> None:
    mail = tomllib.loads(path.read_text())
    for sentence in [
        mail["subject"],
        mail["preview"],
        mail["why"],
        mail.get("nobody", {"fr": 1, "en": 1}),
        *mail["block"],
    ]:
        assert {"fr", "en"} <= sentence.keys()


class TestPreview:
    def run(self, directory: Path, monkeypatch: pytest.MonkeyPatch, program: str | None) -> str:
        monkeypatch.setattr("deploy.operator.cli.mail.browser", lambda: program)
        done = CliRunner().invoke(app.app, ["mail", "preview", str(directory)])
        assert done.exit_code == 0, done.output
        return done.output

    def test_without_a_browser_it_says_so_and_writes_html_and_text(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "no pictures are made" in self.run(tmp_path / "new", monkeypatch, None)
        names = {path.name for path in (tmp_path / "new").iterdir()}
        assert names == {"index.html"} | {f"{s.name}.{kind}" for s in SAMPLES for kind in ("html", "txt")}
        assert "&lt;b&gt;Bob" in (tmp_path / "new" / "index.html").read_text()

    def test_with_one_it_takes_two_pictures_a_mail(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "browser"
        program.write_text('#!/bin/sh\nfor a; do case "$a" in --screenshot=*) : > "${a#--screenshot=}";; esac; done\n')
        program.chmod(0o755)
        monkeypatch.setattr(preview, "CAUSES", CAUSES[:1])
        assert "pictures" not in self.run(tmp_path / "new", monkeypatch, str(program))
        pictures = {path.name for path in (tmp_path / "new").glob("*.png")}
        assert pictures == {
            f"{mail}.{language}.{size}.png"
            for mail in ("welcome", "receipt")
            for language in ("fr", "en")
            for size in ("desktop", "phone")
        }

    def test_a_browser_that_fails_ends_it_with_a_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.operator.cli.mail.browser", lambda: "/bin/false")
        monkeypatch.setattr(preview, "CAUSES", CAUSES[:1])
        done = CliRunner().invoke(app.app, ["mail", "preview", str(tmp_path)])
        assert (done.exit_code, done.output) == (1, "popfax: /bin/false takes no pictures: CalledProcessError\n")

    def test_the_samples_have_a_name_that_looks_like_markup(self) -> None:
        assert any(sample.to.id == BOB for sample in SAMPLES)
        assert any(sample.about is not None and sample.about.id == BOB for sample in SAMPLES)


def test_a_mail_that_waits_since_an_earlier_version_is_rendered() -> None:
    """It has no reference, and names nobody."""
    for sample in SAMPLES:
        params = {
            name: value for name, value in sample.mail.params.items() if name not in ("reference", "named", "more")
        }
        if sample.mail.template is not Template.MEMBERS_LOW:
            render(replace(sample.mail, params=params), sample.to, sample.about, SETTINGS)


def test_people_are_named_in_the_order_of_their_names() -> None:
    text = content(BY_NAME["transfer_receipt.amount.en"].message(SETTINGS), "plain")
    assert re.findall(r"^- (.+): 50", text, re.MULTILINE) == [
        "<b>Bob & Co</b>",
        "Jean-Chrétien Ölafsson",
        "\u2068يوسف الحكيم (2)\u2069",
    ]


def test_a_long_list_counts_as_people_do_and_ends_with_the_nameless() -> None:
    names = re.findall(r"^- (.+)$", content(BY_NAME["members_low.many.en"].message(SETTINGS), "plain"), re.MULTILINE)
    numbers = [int(name.split()[1]) for name in names if name.startswith("Élodie")]
    assert numbers == list(range(1, 46))
    assert names[-1] == "A member"


def test_who_is_not_known_has_no_name_in_a_list() -> None:
    sample = BY_NAME["members_low.one.en"]
    message = message_from_bytes(render(sample.mail, sample.to, None, SETTINGS), policy=default)
    assert "- A member\n" in content(message, "plain")


@pytest.mark.parametrize("name", ["receipt.en", "transfer_receipt.one.en", "member_left.left.en", "members_low.en"])
def test_an_owners_mail_links_to_the_page_of_the_group(name: str) -> None:
    settings = SETTINGS.model_copy(update={"group_link": HttpUrl("https://here.example/group")})
    assert visible(content(BY_NAME[name].message(settings), "html")).links == ["https://here.example/group"]


@pytest.mark.parametrize("name", ["expiring.7.en", "expired.en"])
def test_a_mail_about_an_accounts_end_links_to_where_it_is_extended(name: str) -> None:
    settings = SETTINGS.model_copy(update={"account_link": HttpUrl("https://here.example/account")})
    assert visible(content(BY_NAME[name].message(settings), "html")).links == ["https://here.example/account"]


def test_the_text_parts_last_paragraph_is_cut_off_as_a_signature_is() -> None:
    """With its space (RFC 3676), by which mail programs recognise it."""
    for sample in SAMPLES:
        assert content(sample.message(SETTINGS), "plain").count("\n-- \n") == 1


def test_a_receipts_moment_is_by_the_clock_of_whoever_reads_it() -> None:
    sample = BY_NAME["receipt.en"]
    there = replace(sample, to=replace(sample.to, time_zone="America/Martinique"))
    assert "24 Feb 2031, 10:30" in content(sample.message(SETTINGS), "plain")
    assert "24 Feb 2031, 05:30" in content(there.message(SETTINGS), "plain")
