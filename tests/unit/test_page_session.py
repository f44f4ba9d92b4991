"""Who is let in, which forms are believed, and what a form may bring."""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import pytest
from starlette.requests import Request
from starlette.responses import Response

from services.groups.domain import AccountState
from services.groups.web.auth import BadToken, Tokens
from services.groups.web.keys import Keys, NoKeys
from services.groups.web.page import session
from services.groups.web.page.forms import MAX_BYTES, BadForm, read_form
from services.groups.web.page.views import Choice, Quote
from services.groups.web.queries import Member
from tests.tokens import AUDIENCE, token, write_keys


def request(scheme: str = "http", body: Iterable[bytes] = (b"",), **headers: Any) -> Request:
    chunks = list(body)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    named = {"host": "groups.example", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": "POST",
        "scheme": scheme,
        "path": "/",
        "query_string": b"",
        "server": ("groups.example", 443),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    return Request(scope, receive)


# --- forms that are believed ------------------------------------------------------------------------------------------


def test_believes_a_form_of_this_page() -> None:
    assert session.is_ours(request(), "token", session.proof("token"))
    there = request(origin="http://groups.example", sec_fetch_site="same-origin")
    assert session.is_ours(there, "token", session.proof("token"))


@pytest.mark.parametrize("given", ["", "token", session.proof("of somebody else"), "é"])
def test_refuses_a_form_without_the_proof(given: str) -> None:
    assert not session.is_ours(request(), "token", given)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://groups.example.evil"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
    ],
)
def test_refuses_a_form_from_elsewhere_even_with_the_proof(headers: dict[str, Any]) -> None:
    assert not session.is_ours(request(**headers), "token", session.proof("token"))


def test_the_proof_does_not_tell_the_token() -> None:
    assert "token" not in session.proof("token")
    assert session.proof("token") == session.proof("token") != session.proof("Token")


# --- the cookie -------------------------------------------------------------------------------------------------------


async def test_the_cookie_is_for_the_server_alone_and_ends_with_the_token(tmp_path: Any) -> None:
    caller = await Tokens(Keys(str(write_keys(tmp_path))), AUDIENCE).caller(token(uuid4()))
    plain, secure = Response(), Response()
    session.begin(plain, request(), "made.of.three", caller)
    session.begin(secure, request("https"), "made.of.three", caller)
    assert plain.headers["set-cookie"].startswith("popfax=made.of.three;")
    assert secure.headers["set-cookie"].startswith("__Host-popfax=made.of.three;")
    for each in (plain, secure):
        words = {
            word.strip().partition("=")[0]: word.partition("=")[2] for word in each.headers["set-cookie"].split(";")
        }
        assert {"HttpOnly", "Path", "SameSite", "Max-Age"} <= set(words)
        assert words["SameSite"].lower() == "lax"
        assert 290 <= int(words["Max-Age"]) - 3600 <= 300, "it is told for an hour that it is over"
        assert "domain" not in {word.lower() for word in words}
    assert "Secure" in secure.headers["set-cookie"]


# --- keys made for development ----------------------------------------------------------------------------------------


async def test_refuses_a_development_key_unless_told_otherwise(tmp_path: Any) -> None:
    names = ("ec", "ec-other")
    file = write_keys(tmp_path, *names)
    file.write_text(file.read_text().replace('"ec-other"', '"dev-1"'))
    who = uuid4()
    made_for_development = token(who, key="ec-other", kid="dev-1")
    assert (await Tokens(Keys(str(file), development=True), AUDIENCE).caller(made_for_development)).id == who
    strict = Tokens(Keys(str(file)), AUDIENCE)
    assert (await strict.caller(token(who))).id == who
    with pytest.raises(BadToken, match="unknown_key"):
        await strict.caller(made_for_development)


async def test_has_no_keys_at_all_when_all_are_for_development(tmp_path: Any) -> None:
    file = write_keys(tmp_path, "ec")
    file.write_text(file.read_text().replace('"ec"', '"dev-1"', 1))
    with pytest.raises(NoKeys):
        await Tokens(Keys(str(file)), AUDIENCE).caller(token(uuid4(), kid="dev-1"))


# --- what a form brings -----------------------------------------------------------------------------------------------


async def test_reads_a_form() -> None:
    form = await read_form(request(body=[b"name=%C3%89tude+", b"&member=1&member=2&empty="]))
    assert (form.one("name"), form.all("member"), form.one("nothing")) == ("Étude", ["1", "2"], "")
    assert form.some("name", "empty", "nothing") == {"name": "Étude", "empty": ""}
    assert form.some("name")["nothing"] == ""


@pytest.mark.parametrize("body", [b"\xff=1", b"a" * (MAX_BYTES + 1), b"a=1&" * 3001])
async def test_refuses_what_is_no_form(body: bytes) -> None:
    with pytest.raises(BadForm):
        await read_form(request(body=[body]))


async def test_a_thousand_members_fit_into_a_form() -> None:
    body = "&".join(f"member={uuid4().hex}.1" for _ in range(1000)).encode()
    assert len((await read_form(request(body=[body]))).all("member")) == 1000
    assert len(body) * 3 < MAX_BYTES


# --- what a transfer would cost ---------------------------------------------------------------------------------------


def member(units: int, epoch: int = 1) -> Member:
    return Member(
        member_id=uuid4(),
        first_name="Nina",
        last_name="Petit",
        email=None,
        state=AccountState.ACTIVE,
        expires_at=None,
        available_units=units,
        epoch=epoch,
        joined_at="2031-02-24T00:00:00Z",
    )


def test_an_amount_costs_as_much_for_each() -> None:
    quote = Quote.of("amount", 20, Choice((member(5), member(500), member(0))), 100)
    assert (quote.cost, quote.left, quote.gaining, quote.enough) == (60, 40, 3, 0)
    assert len(quote.who_gains) == 3


def test_topping_up_costs_the_gaps_alone_and_tells_apart_who_has_enough() -> None:
    poor, rich, just = member(15), member(80), member(50)
    quote = Quote.of("top_up_to", 50, Choice((poor, rich, just)), 30)
    assert (quote.cost, quote.left, quote.gaining, quote.enough) == (35, -5, 1, 2)
    assert (quote.who_gains, quote.who_has_enough) == ((poor,), (rich, just))


def test_the_digest_of_a_choice_is_of_who_is_chosen_in_whatever_order() -> None:
    one, other = member(15), member(80)
    again = one.model_copy(update={"epoch": 2})
    assert Choice((one, other)).digest == Choice((other, one)).digest
    assert len({Choice(each).digest for each in ((), (one,), (other,), (one, other), (again, other))}) == 5
