"""The page speaks both languages, whole, and has a sentence for whatever is refused."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from services.chassis.sagas import Saga
from services.groups.commands import POSTABLE
from services.groups.domain import InvitationState, Kind
from services.groups.sagas.create_member_account import CREATE_MEMBER_ACCOUNT
from services.groups.web.page.flows.commands import REGIONS
from services.groups.web.page.speech import HERE, LANGUAGES, choose, speech
from services.groups.web.page.words import DONE, MARKS, PENDING, PLANS, REFUSALS, STEPS, UNKNOWN_REFUSAL
from services.provisioning import catalogue as plans

Sentence = str | tuple[str, ...]

KEYWORDS: dict[str, Any] = {"N_": None, "_": None, "gettext": None, "ngettext": (1, 2)}


def refusal_codes() -> set[str]:
    """The codes with which what is posted on the page may be refused."""
    return {code.value for model in POSTABLE.values() for code in model.CODES}


def said_in_source() -> set[Sentence]:
    method = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]
    found = extract_from_dir(HERE, method_map=method, keywords=KEYWORDS)
    return {message for _, _, message, _, _ in found}


def translated(language: str) -> dict[Sentence, Sentence]:
    with (HERE / "locales" / f"{language}.po").open("rb") as file:
        return {_sentence(each.id): _sentence(each.string) for each in read_po(file, locale=language) if each.id}


def _sentence(found: str | Sequence[str] | None) -> Sentence:
    return found if isinstance(found, str) else tuple(found or ())


def sentences(found: dict[Sentence, Sentence]) -> Iterator[tuple[str, str]]:
    for id_, string in found.items():
        yield from zip(
            [id_] if isinstance(id_, str) else id_, [string] if isinstance(string, str) else string, strict=True
        )


def test_every_refusal_has_a_sentence() -> None:
    assert refusal_codes() - set(REFUSALS) == set()
    assert set(REFUSALS) - refusal_codes() == {"malformed_command", "dropped"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_refusal_without_a_sentence_is_said_too(language: str) -> None:
    assert speech(language).refusal("of_another_day") == speech(language).say(UNKNOWN_REFUSAL) != ""


def test_french_says_all_that_the_source_says_and_nothing_else() -> None:
    assert set(translated("fr")) == said_in_source()


def test_every_sentence_is_translated_with_all_that_it_speaks_of() -> None:
    for id_, string in sentences(translated("fr")):
        assert string.strip(), id_
        assert set(re.findall(r"%\((\w+)\)s", id_)) == set(re.findall(r"%\((\w+)\)s", string)), id_


def test_french_is_set_as_french() -> None:
    wrong = re.compile(r"'|[^\u202f]([;?!])(?!\w)|[^\u00a0]:(?!//)|«[^\u00a0]|[^\u00a0]»|  ")
    assert [string for _, string in sentences(translated("fr")) if wrong.search(string)] == []


def test_the_words_of_the_product_are_its_own() -> None:
    say = speech("fr").say
    assert say("Pay with %(price)s POP units from your account, instead of money", price=120) == (
        "Payez avec 120 pop-unités de votre compte, à la place de l’argent"
    )
    words = {
        "Edit": "Modifier",
        "Invite / Create": "Inviter / Créer",
        "Invite a client, or create an account for them": "Inviter un client ou créer un compte pour lui",
        "History": "Historique",
        "Invitations": "Invitations",
        "Transfers": "Transferts",
        "Everything": "Tout",
        "All": "Tous",
        "Expired": "Expiré",
        "Remove the selection": "Supprimer la sélection",
        "Transfer POP units": "Transférer des POP unités",
        "(cannot be undone)": "(action irréversible)",
        "Top up to": "Recharger jusqu’à",
        "Continue": "Continuer",
        "Plan": "Forfait",
        "Withdraw": "Retirer",
        "Send and Receive": "Envoyez et Recevez",
        "Send Only": "Envoi Seul",
    }
    assert {word: say(word) for word in words} == words


def test_one_thing_has_one_word() -> None:
    """`POP unités` and `forfait`, as the product calls them; and what cancels an edit cancels nothing else."""
    french = translated("fr")
    other = re.compile(r"(?<!POP )(?<!pop-)\bunités?\b|formule", re.IGNORECASE)
    assert [string for _, string in sentences(french) if other.search(string)] == []
    assert [id_ for id_, string in sentences(french) if "annul" in string.lower()] == ["Cancel"]


def test_every_command_that_the_page_posts_has_its_words_and_its_place() -> None:
    """One that only `/v1` takes has none of its own: the page says of it that it is being done, or done."""
    posted = {name for path in HERE.rglob("*.py") for name in re.findall(r'POSTABLE\["([a-z-]+)"\]', path.read_text())}
    assert posted <= set(PENDING) == set(DONE) == set(REGIONS) <= set(POSTABLE)


def test_every_plan_on_sale_has_a_name() -> None:
    assert set(plans.read(plans.DEFAULT).plans) == set(PLANS)


def test_progress_shows_the_sagas_steps() -> None:
    saga: Saga = CREATE_MEMBER_ACCOUNT
    assert [step.name for step in saga.steps] == list(STEPS)[:-1]


def test_every_line_of_the_history_has_a_mark() -> None:
    ends = {
        Kind.INVITATION: {each.value for each in InvitationState},
        Kind.ACCOUNT: {"created", "refused"},
        Kind.MEMBERSHIP: {"active", "detached", "left", "account_closed", "group_closed"},
        Kind.TRANSFER: {"pending", "done", "refused"},
        Kind.EXTENSION: {"pending", "done", "refused"},
        Kind.OPTIONS_PACK: {"pending", "done", "refused"},
        Kind.ORDER: {"set", "paused", "stopped"},
        Kind.NAME: {"renamed"},
    }
    assert set(MARKS) == {(kind.value, outcome) for kind, outcomes in ends.items() for outcome in outcomes}


@pytest.mark.parametrize(
    ("chosen", "directory", "accepted", "expected"),
    [
        ("en", "fr", "fr", "en"),
        (None, "en", "fr", "en"),
        (None, None, "de, en-GB;q=0.8, fr;q=0.5", "en"),
        (None, None, "en;q=0.3, fr-CA;q=0.9", "fr"),
        (None, None, "en;q=0, fr;q=0.1", "fr"),
        (None, None, "de", "fr"),
        (None, None, "", "fr"),
        ("xx", "yy", ";;;,=,en", "en"),
    ],
)
def test_the_language_is_the_chosen_one_then_the_directorys_then_the_browsers(
    chosen: str | None, directory: str | None, accepted: str, expected: str
) -> None:
    assert choose(chosen, directory, accepted).language == expected


def test_numbers_and_times_are_written_as_the_language_does() -> None:
    at = datetime(2031, 2, 24, 22, 5, tzinfo=UTC)
    assert speech("fr").units(12500) == "12\u202f500\u00a0POP"
    assert speech("en").units(12500) == "12,500\u00a0POP"
    assert speech("fr").dates.moment(at) == "24 févr. 2031 à 23:05"
    assert speech("en").by_clock_of("Pacific/Auckland").dates.moment(at) == "25 Feb 2031, 11:05"
    assert speech("en").dates.moment(at) == "24 Feb 2031, 23:05"
