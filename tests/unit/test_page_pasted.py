"""What is read of a list of addresses that somebody pastes, and what becomes of each line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.groups.web.page.pasted import MOST, Known, Person, Verdict, judge, read, written

ANNE = Person("anne@b.example", "Anne", "Martin")


@pytest.mark.parametrize(
    ("line", "person"),
    [
        ("anne@b.example", Person("anne@b.example")),
        ("  Anne@B.Example ", Person("anne@b.example")),
        ("<anne@b.example>", Person("anne@b.example")),
        ("mailto:anne@b.example", Person("anne@b.example")),
        ("Anne <anne@b.example>", Person("anne@b.example", "Anne")),
        ("Anne Martin <anne@b.example>", ANNE),
        ('"Anne Martin" <anne@b.example>;', ANNE),
        ('"Martin, Anne" <anne@b.example>', ANNE),
        ("Anne de La Tour <anne@b.example>", Person("anne@b.example", "Anne", "de La Tour")),
        ("Anne;Martin;anne@b.example", ANNE),
        ("Anne; Martin ;anne@b.example;", ANNE),
        ("Anne,Martin,anne@b.example", ANNE),
        ("Anne\tMartin\tanne@b.example", ANNE),
        ('"Anne","Martin","anne@b.example"', ANNE),
        ("anne@b.example,Anne,Martin", ANNE),
        ("Anne Martin;anne@b.example", ANNE),
        ("Anne Martin anne@b.example", ANNE),
        ("Jean Paul;de La Tour;jp@b.example", Person("jp@b.example", "Jean Paul", "de La Tour")),
        ("\ufeffanne@b.example", Person("anne@b.example")),
        ("jo@straße.example", Person("jo@xn--strae-oqa.example")),
        ("not an address", Person("not an address", is_address=False)),
        ("anne@", Person("anne@", is_address=False)),
        ("Anne <b.example>", Person("b.example", "Anne", is_address=False)),
        ("@", Person("@", is_address=False)),
        ('"anne@b.example', Person("anne@b.example")),
    ],
)
def test_a_line_is_read_as_programs_write_it(line: str, person: Person) -> None:
    assert read(line).people == (person,)


@pytest.mark.parametrize("separator", [", ", "; ", "\n", "\r\n", "\n\n", "\t"])
def test_several_addresses_are_several_people(separator: str) -> None:
    text = separator.join(('"Martin, Anne" <anne@b.example>', "paul@b.example"))
    assert read(text).people == (ANNE, Person("paul@b.example"))


@pytest.mark.parametrize(
    "text",
    [
        "E-mail;Nom;Prénom;Ville\nanne@b.example;Martin;Anne;Lyon",
        "First name,Last name,Email\nAnne,Martin,anne@b.example\n\n",
        "Nom\tCourriel\tPrénom\r\nMartin\tanne@b.example\tAnne\r\n",
    ],
)
def test_a_first_line_says_what_the_columns_are(text: str) -> None:
    assert read(text).people == (ANNE,)


def test_a_row_without_an_address_is_a_line_that_is_none() -> None:
    assert read("Nom;E-mail\nMartin;").people == (Person("", "", "Martin", is_address=False),)


def test_no_more_are_read_than_one_list_may_have() -> None:
    lines = [f"{n}@b.example" for n in range(MOST + 1)]
    assert not read("\n".join(lines[:MOST])).has_more
    pasted = read("\n".join(lines))
    assert (len(pasted.people), pasted.has_more) == (MOST, True)


@given(
    st.text()
    | st.lists(st.sampled_from(['"', "@", "a@b.example", "<", ">", ",", ";", "\t", "\n", " ", "x", "\u00a0"])).map(
        "".join
    )
)
def test_whatever_is_pasted_is_read_and_reads_as_the_same_again(text: str) -> None:
    people = read(text).people
    addresses = [each for each in people if each.is_address]
    assert read(written(addresses)).people == tuple(addresses)


KNOWN = Known("own@b.example", {"member@b.example"}, {"invited@b.example"}, quota_left=2)


@pytest.mark.parametrize(
    ("lines", "verdicts"),
    [
        (["new@b.example"], [Verdict.READY]),
        (["OWN@b.example"], [Verdict.ONESELF]),
        (["member@b.example"], [Verdict.MEMBER]),
        (["invited@b.example"], [Verdict.INVITED]),
        (["nobody"], [Verdict.INVALID]),
        (["a@b.example", "A@B.example"], [Verdict.READY, Verdict.DUPLICATE]),
        (["nobody", "nobody"], [Verdict.INVALID, Verdict.INVALID]),
        (["a@b.example", "b@b.example", "c@b.example"], [Verdict.READY, Verdict.READY, Verdict.OVER_QUOTA]),
        (["a@b.example", "member@b.example", "b@b.example"], [Verdict.READY, Verdict.MEMBER, Verdict.READY]),
    ],
)
def test_each_line_is_judged(lines: list[str], verdicts: list[Verdict]) -> None:
    assert [each.verdict for each in judge(read("\n".join(lines)).people, KNOWN)] == verdicts
