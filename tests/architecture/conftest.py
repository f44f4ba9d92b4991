"""A copy of the code that a test may break."""

import shutil
from pathlib import Path

import pytest

from deploy.paths import CHECKOUT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages, to be broken."""
    for package in ("contracts", "services", "deploy", "requirements"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A copy of the files that say which images run, and how, to be broken."""
    for part in ("deploy/docker", "deploy/kubernetes", ".devcontainer"):
        shutil.copytree(CHECKOUT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "schemas"))
    (tmp_path / "deploy/local").mkdir()
    shutil.copy(CHECKOUT / "deploy/local/containers.py", tmp_path / "deploy/local")
    return tmp_path
