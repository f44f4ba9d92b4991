"""What each image holds and how it runs, as the files and the code say, and what is wrong with that.

Each function takes the directory that holds `services/`, so that a test can show it a tree that is wrong.
"""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = ("service", "operator", "mailsink")

OURS = frozenset({"popfax_contracts", "services", "deploy"})

OUR_IMAGES = "popfax-groups"
"""How the names of all of them begin."""

_PINNED = re.compile(r"[^@ ]+:[^@: ]*\d[^@: ]*@sha256:[0-9a-f]{64}")

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


def named_images(tree: Path) -> dict[str, str]:
    """Return the images of others that are named anywhere, by where: as a base, or to run."""
    found = {"deploy/docker/Dockerfile": _base(tree / "deploy" / "docker" / "Dockerfile")}
    found[".devcontainer/Dockerfile"] = _base(tree / ".devcontainer" / "Dockerfile")
    for name, service in _compose(tree).items():
        if not _is_ours(service["image"]):
            found[f"compose.yaml: {name}"] = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", service["image"])
    for name, image in re.findall(
        r'^(\w+_IMAGE) = "(.*)"$', (tree / "deploy/local/containers.py").read_text(), re.MULTILINE
    ):
        found[f"containers.py: {name}"] = image
    for path in sorted((tree / "deploy" / "kubernetes").rglob("*.yaml")):
        for image in re.findall(r"^[ -]*image(?:Name)?: (.*)$", path.read_text(), re.MULTILINE):
            if not _is_ours(image):
                found[f"{path.relative_to(tree)}: {image}"] = image
    return found


def not_pinned(tree: Path) -> list[str]:
    """Find images that are not named by version and digest, or not the same everywhere."""
    named = named_images(tree)
    loose = [where for where, image in named.items() if not _PINNED.fullmatch(image)]
    images: dict[str, set[str]] = {}
    for image in named.values():
        images.setdefault(image.partition(":")[0], set()).add(image)
    return loose + [name for name, found in images.items() if len(found) > 1]


def run_by_a_shell(tree: Path) -> list[str]:
    """Find what needs a shell in an image of ours: how it starts, its check, and what compose or Kubernetes runs."""
    lines = (tree / "deploy" / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    found = [line for line in lines if (command := _command(line)) is not None and _needs_shell(command)]
    for name, service in _compose(tree).items():
        commands = [service.get(key) for key in ("entrypoint", "command")] + [
            service.get("healthcheck", {}).get("test")
        ]
        if _is_ours(service["image"]) and any(_needs_shell(each) for each in commands if each is not None):
            found.append(f"compose.yaml: {name}")
    for path in sorted((tree / "deploy" / "kubernetes").rglob("*.yaml")):
        text = path.read_text()
        for container in _containers(list(yaml.safe_load_all(text))) if f"image: {OUR_IMAGES}" in text else ():
            if _is_ours(container["image"]) and any(
                _needs_shell(container.get(key, [])) for key in ("command", "args")
            ):
                found.append(f"{path.relative_to(tree)}: {container['name']}")
    return found


def not_confined(tree: Path) -> list[str]:
    """Find what runs in compose from an image of ours with a writable root file system, or a privilege."""
    wanted = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    return [
        name
        for name, service in _compose(tree).items()
        if _is_ours(service["image"]) and not wanted.items() <= service.items()
    ]


def _base(dockerfile: Path) -> str:
    """Return the image that a Dockerfile's stages stand on, or all of them."""
    lines = [line.split() for line in dockerfile.read_text().splitlines()]
    stages = {line[3] for line in lines if line[:1] == ["FROM"] and line[2:3] == ["AS"]}
    bases = {line[1] for line in lines if line[:1] == ["FROM"]} - stages
    defaults = {
        f"${{{name}}}": value for line in lines if line[:1] == ["ARG"] for name, _, value in [line[1].partition("=")]
    }
    return " ".join({defaults.get(each, each) for each in bases})


def _compose(tree: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((tree / "deploy/docker/compose.yaml").read_text())["services"]
    return found


def _is_ours(image: str) -> bool:
    return image.startswith(OUR_IMAGES)


def _command(line: str) -> str | list[str] | None:
    """Return what a line of a Dockerfile makes a container run: a list, or a shell's text."""
    match = re.match(r"(?:ENTRYPOINT|(?:HEALTHCHECK .*)?\bCMD) (.*)", line.strip())
    if match is None:
        return None
    text = match.group(1)
    listed: list[str] = json.loads(text) if text.startswith("[") else []
    return listed or text


def _needs_shell(command: str | list[str]) -> bool:
    """Return whether a command is a shell's text, or a list that starts a shell (or that a check hands to one)."""
    shells = {"sh", "bash", "dash", "CMD-SHELL"}
    return isinstance(command, str) or any(Path(each).name in shells for each in command[:2])


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    """Return all containers in a manifest: whatever has an image and a name."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str) and "name" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _containers(each)


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
            case ["RUN", *words] if "/opt/popfax/bin/python" in words and "-r" in words:
                current.requirements.append(f"requirements/{Path(words[words.index('-r') + 1]).name}")
            case ["COPY", source, _] if source.startswith("requirements/"):
                pass
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
