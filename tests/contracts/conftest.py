"""What the tests of the contracts' files share."""

import shutil
from pathlib import Path

import pytest

from deploy.contract_tools import releases
from deploy.contract_tools.__main__ import generate
from deploy.contract_tools.layout import EXAMPLES
from deploy.paths import CHECKOUT


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts' files with nothing stale and nothing released."""
    directory = tmp_path_factory.mktemp("contracts")
    shutil.copytree(CHECKOUT / EXAMPLES, directory / EXAMPLES)
    generate(directory)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of them, to be broken."""
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture(scope="session")
def released(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contracts' files, released as the first of their major version. Shared: change nothing."""
    directory = shutil.copytree(whole, tmp_path_factory.mktemp("released") / "contracts")
    releases.release(directory, f"{releases.MAJOR}.0.0")
    return directory
