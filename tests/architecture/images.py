"""What each image holds, as the Dockerfile, the requirements and the code say, and where they disagree.

Each function takes the directory that holds `services/`, so that a test can show it a tree that is wrong.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = ("service", "operator", "mailsink")

OURS = frozenset({"popfax_contracts", "services", "deploy"})

READ_AS_DATA = frozenset({"tzdata"})
"""Packages that hold no code: `zoneinfo` reads them."""


@dataclass
class Image:
    """A stage of the Dockerfile, with what it has from the stages that it begins with."""

    copies: list[tuple[Path, Path]] = field(default_factory=list)
    """Where its code comes from, below the checkout, and where it lies in the image, below the working directory."""

    requirements: list[str] = field(default_factory=list)
    """The files that its packages are listed in."""


def image(tree: Path, name: str) -> Image:
    """Read an image out of the Dockerfile."""
    return _stages((tree / "deploy" / "docker" / "Dockerfile").read_text())[name]


def modules(tree: Path, name: str) -> dict[Path, Path]:
    """Return the Python files of an image: where each lies in it, and where it comes from."""
    found = {}
    for source, target in image(tree, name).copies:
        for path in (tree / source).rglob("*.py") if (tree / source).is_dir() else [tree / source]:
            found[target / path.relative_to(tree / source)] = path
    return found


def packages(tree: Path, name: str) -> set[str]:
    """Return the packages of an image, as its requirements list them for this system."""
    text = "\n".join((tree / each).read_text() for each in image(tree, name).requirements)
    listed = (Requirement(line) for line in re.findall(r"^([a-z0-9][^ \\\n]*(?: ; [^\\\n]*)?)", text, re.MULTILINE))
    return {canonicalize_name(each.name) for each in listed if _applies(each, frozenset())}


def not_in_the_image(tree: Path, name: str) -> list[str]:
    """Find what an image's code imports and the image has not: modules of ours, and packages of others."""
    here, installed = modules(tree, name), packages(tree, name)
    found = set()
    for place, path in here.items():
        for imported in _imports(path):
            root = imported.partition(".")[0]
            missing = (
                _is_left_out(imported, here.keys(), tree) if root in OURS else not _distributions(root) & installed
            )
            if missing and root not in sys.stdlib_module_names:
                found.add(f"{place}: {imported if root in OURS else root}")
    return sorted(found)


def never_imported(tree: Path, name: str) -> set[str]:
    """Find packages of an image that neither its code imports nor a package that is imported needs."""
    roots = {imported.partition(".")[0] for path in modules(tree, name).values() for imported in _imports(path)}
    imported = {distribution for root in roots for distribution in _distributions(root)}
    return packages(tree, name) - _needed(imported, _extras(tree)) - READ_AS_DATA


def _stages(dockerfile: str) -> dict[str, Image]:
    stages: dict[str, Image] = {}
    current = Image()
    for line in dockerfile.replace("\\\n", " ").splitlines():
        match line.split():
            case ["FROM", base, "AS", name]:
                begun = stages.get(base, Image())
                current = stages[name] = Image(list(begun.copies), list(begun.requirements))
            case ["COPY", origin, *_] if origin.startswith("--from="):
                current.requirements += stages[origin.removeprefix("--from=")].requirements
            case ["COPY", source, _] if source.startswith("requirements/"):
                current.requirements.append(source)
            case ["COPY", *sources, target]:
                into = target.endswith("/")
                current.copies += [
                    (Path(each), Path(target) / Path(each).name if into else Path(target)) for each in sources
                ]
    return stages


def _imports(path: Path) -> Iterator[str]:
    """Return what a file imports, wherever in it: modules, and names in modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_left_out(name: str, here: Set[Path], tree: Path) -> bool:
    """Return whether a module of ours, or a name in one, is of a module that the image has not."""
    while not (files := _files(name, tree)):
        name = name.rpartition(".")[0]
    return not here & files


def _files(name: str, tree: Path) -> set[Path]:
    place = Path(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return {each for each in files if (tree / each).exists() or (tree / "contracts" / each).exists()}


def _distributions(root: str) -> set[str]:
    return {canonicalize_name(each) for each in _DISTRIBUTIONS.get(root, ())}


_DISTRIBUTIONS = metadata.packages_distributions()


def _extras(tree: Path) -> dict[str, frozenset[str]]:
    """Return which extras of others' packages we declare."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(each.name): frozenset(each.extras) for each in map(Requirement, lines)}


def _needed(names: set[str], extras: dict[str, frozenset[str]]) -> set[str]:
    """Return packages with all that they need."""
    found: set[str] = set()
    waiting = [(name, extras.get(name, frozenset())) for name in names]
    while waiting:
        name, with_ = waiting.pop()
        found.add(name)
        for each in map(Requirement, metadata.requires(name) or ()):
            needed = canonicalize_name(each.name)
            if _applies(each, with_) and needed not in found:
                waiting.append((needed, frozenset(each.extras)))
    return found


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})
