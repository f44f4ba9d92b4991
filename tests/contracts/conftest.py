"""What the tests of the contracts' files share."""

import shutil
from pathlib import Path

import pytest

from deploy.contracts.__main__ import generate
from deploy.contracts.layout import CHECKOUT, EXAMPLES, RELEASED


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts' files with nothing stale."""
    directory = tmp_path_factory.mktemp("contracts")
    for place in (EXAMPLES, RELEASED):
        shutil.copytree(CHECKOUT / place, directory / place)
    generate(directory)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of them, to be broken."""
    return shutil.copytree(whole, tmp_path / "copy")
