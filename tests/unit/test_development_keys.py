"""The stand-in for the platform's login on one machine."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from deploy.local.keys import AUDIENCE, DevelopmentKeys
from deploy.local.login_codes import LoginCodes
from deploy.operator.cli.app import app
from services.groups.settings import GroupsSettings
from services.groups.web.auth import BadToken, Tokens
from services.groups.web.keys import Keys, NoKeys

PAGE = "http://127.0.0.1:1"


def test_groups_takes_its_tokens_for_what_the_service_expects() -> None:
    assert GroupsSettings.model_fields["jwt_audience"].default == AUDIENCE
    assert GroupsSettings.model_fields["jwt_development_keys"].default is False


async def test_a_link_logs_in_whom_it_is_for_where_development_keys_are_good(tmp_path: Path) -> None:
    keys, who = DevelopmentKeys(tmp_path / "keys"), uuid4()
    link = urlsplit(keys.login_link("http://127.0.0.1:1", who))
    token = parse_qs(link.query)["token"][0]
    assert link.path == "/login"
    assert (await Tokens(Keys(str(keys.key_set), development=True), AUDIENCE).caller(token)).id == who
    with pytest.raises(NoKeys):
        await Tokens(Keys(str(keys.key_set)), AUDIENCE).caller(token)


async def test_a_link_is_good_for_its_time(tmp_path: Path) -> None:
    keys = DevelopmentKeys(tmp_path)
    over = keys.token(uuid4(), timedelta(minutes=-5))
    with pytest.raises(BadToken, match="token_expired"):
        await Tokens(Keys(str(keys.key_set), development=True), AUDIENCE).caller(over)


def test_the_pair_is_made_once_and_its_private_half_is_its_owners(tmp_path: Path) -> None:
    keys = DevelopmentKeys(tmp_path / "keys")
    public = keys.key_set.read_text()
    assert DevelopmentKeys(tmp_path / "keys").key_set.read_text() == public
    assert '"d"' not in public
    assert (tmp_path / "keys" / "private.json").stat().st_mode & 0o077 == 0


# --- short links ------------------------------------------------------------------------------------------------------


@pytest.fixture
def codes(tmp_path: Path) -> Iterator[LoginCodes]:
    """Codes of a product that runs, with its helper."""
    made = LoginCodes(tmp_path)
    with made.served(DevelopmentKeys(tmp_path / "keys"), PAGE):
        yield made


def _follow(link: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Return the status, and where the helper leads."""
    at = urlsplit(link)
    with closing(HTTPConnection(at.hostname or "", at.port or 0, timeout=10)) as connection:
        connection.request(method, at.path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Location", "")


async def _is_for(location: str, keys: Path) -> UUID:
    token = parse_qs(urlsplit(location).query)["token"][0]
    return (await Tokens(Keys(str(DevelopmentKeys(keys).key_set), development=True), AUDIENCE).caller(token)).id


async def test_a_short_link_leads_to_the_page_once(codes: LoginCodes, tmp_path: Path) -> None:
    who = uuid4()
    link = codes.link(who) or ""
    assert len(link) < 40, "it fits a line of a terminal, whatever stands before it"
    status, location = _follow(link)
    assert (status, location.partition("?")[0]) == (303, f"{PAGE}/login")
    assert await _is_for(location, tmp_path / "keys") == who
    assert _follow(link) == (404, "")


def test_a_short_link_is_good_for_its_time(codes: LoginCodes) -> None:
    assert _follow(codes.link(uuid4(), timedelta(seconds=-1)) or "") == (404, "")


@pytest.mark.parametrize(("method", "headers"), [("HEAD", {}), ("GET", {"Sec-Purpose": "prefetch;prerender"})])
def test_a_look_at_a_short_link_uses_nothing_up(codes: LoginCodes, method: str, headers: dict[str, str]) -> None:
    link = codes.link(uuid4()) or ""
    assert _follow(link, method, **headers)[0] >= 400
    assert _follow(link)[0] == 303


@pytest.mark.parametrize("path", ["/", "/url", "/../keys/private.json", "/..%2Fkeys%2Fprivate.json", "/a" * 40])
def test_what_is_no_code_leads_nowhere(codes: LoginCodes, path: str) -> None:
    link = codes.link(uuid4()) or ""
    assert _follow(link.rpartition("/")[0] + path) == (404, "")
    assert codes.link(uuid4()), "the helper's own address is no code"


def test_codes_are_their_owners(codes: LoginCodes, tmp_path: Path) -> None:
    codes.link(uuid4())
    found = [path.stat().st_mode & 0o077 for path in (tmp_path / "logins", *(tmp_path / "logins").iterdir())]
    assert len(found) == 3
    assert set(found) == {0}


async def test_the_command_line_gives_another_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.operator.cli.connection.DIRECTORY", tmp_path)
    who = uuid4()
    none = CliRunner().invoke(app, ["person", "link", str(who)])
    assert (none.exit_code, none.stdout) == (1, "")
    with LoginCodes(tmp_path).served(DevelopmentKeys(tmp_path / "keys"), PAGE):
        found = [CliRunner().invoke(app, ["person", "link", str(who)]).stdout.strip() for _ in range(2)]
        assert found[0] != found[1], "a link is good once"
        assert await _is_for(_follow(found[0])[1], tmp_path / "keys") == who
    gone = CliRunner().invoke(app, ["person", "link", str(who)])
    assert (gone.exit_code, gone.stdout) == (1, "")
