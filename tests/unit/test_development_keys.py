"""The stand-in for the platform's login on one machine."""

from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from deploy.local.keys import AUDIENCE, DevelopmentKeys
from deploy.operator.cli.app import app
from services.groups.settings import GroupsSettings
from services.groups.web.auth import BadToken, Tokens
from services.groups.web.keys import Keys, NoKeys


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


async def test_the_command_line_gives_another_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.operator.cli.connection.DIRECTORY", tmp_path)
    who = uuid4()
    none = CliRunner().invoke(app, ["person", "link", str(who), "http://127.0.0.1:1"])
    assert (none.exit_code, none.stdout) == (1, "")
    keys = DevelopmentKeys(tmp_path / "keys")
    assert keys.key_set.exists()
    found = [CliRunner().invoke(app, ["person", "link", str(who), "http://127.0.0.1:1/"]).stdout for _ in range(2)]
    assert found[0] != found[1], "a link is good once"
    token = parse_qs(urlsplit(found[0].strip()).query)["token"][0]
    assert (await Tokens(Keys(str(keys.key_set), development=True), AUDIENCE).caller(token)).id == who
