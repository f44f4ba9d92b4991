"""The known mutants: the product with one mistake in it, each with what must catch it.

Most are data, in `mutants.toml`: a file, a piece of its text, and what stands there instead. The simulation's own are
those that exchange a handler or the database (`tests/simulation/mutations.py`), and those that replicas must show
(`tests/simulation/mistakes.py`).
"""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.paths import CHECKOUT
from tests.simulation.mistakes import MISTAKES
from tests.simulation.mutations import FOUND_BY, MUTATIONS
from tests.simulation.stories import PLAIN, STORIES

LIST = Path(__file__).with_name("mutants.toml")

SIMULATION = "simulation"

SECONDS = {SIMULATION: 300.0}
"""How long each layer may take to catch a mutant, unless the mutant says otherwise."""
OTHERWISE_S = 240.0
"""The same for layers that are pytest's: most of it is for the servers to start."""


class NotApplied(ValueError):
    """A patch that no longer fits: its text is not in the file, or more than once."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A text that is replaced by another one, in one file."""

    file: str
    old: str
    new: str

    def applied(self, text: str) -> str:
        """Return the file's text with the mistake in it. Raises `NotApplied`."""
        if (found := text.count(self.old)) != 1:
            raise NotApplied(f"{self.file} has this {found} times: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Trial:
    """A mutant, and a layer that must catch it.

    `selection` is what pytest runs; None if the layer is the simulation, which tries `seed` first. Without a patch, the
    mutant is the simulation's own of that name, to be found in `story`. `seconds` bounds the layer's run.
    """

    mutant: str
    patch: Patch | None
    selection: str | None
    seed: int
    seconds: float
    story: str = PLAIN

    @property
    def layer(self) -> str:
        """Return the layer's directory under `tests`."""
        return SIMULATION if self.selection is None else Path(self.selection.partition("::")[0]).parts[1]


def trials() -> list[Trial]:
    """Return every mutant with every layer that must catch it."""
    own = [Trial(name, None, None, FOUND_BY.get(name, 0), SECONDS[SIMULATION]) for name in MUTATIONS]
    stories = {made: story for story, made in STORIES.items()}
    of_replicas = [
        Trial(name, None, None, each.found_by, SECONDS[SIMULATION], stories[each.story])
        for name, each in MISTAKES.items()
    ]
    return own + of_replicas + list(_listed(LIST.read_text()))


def _listed(text: str) -> Iterator[Trial]:
    for entry in tomllib.loads(text)["mutant"]:
        patch = Patch(entry["file"], entry["old"], entry["new"])
        for caught_by in entry["caught_by"]:
            selection = None if caught_by == SIMULATION else caught_by
            seconds = entry.get("seconds", SECONDS.get(caught_by, OTHERWISE_S))
            yield Trial(entry["name"], patch, selection, entry.get("seed", 0), seconds)


def patched(patch: Patch, tree: Path = CHECKOUT) -> str:
    """Return a file's text with the mistake in it. Raises `NotApplied`, and `SyntaxError` for what is no Python."""
    text = patch.applied((tree / patch.file).read_text())
    compile(text, patch.file, "exec")
    return text


def selects(selection: str, tree: Path = CHECKOUT) -> bool:
    """Return whether pytest would find a test: a file, or one function in it, in a class or not."""
    file, *names = selection.partition("[")[0].split("::")
    path = tree / file
    body = ast.parse(path.read_text()).body if path.is_file() else None
    for name in names:
        nodes = [each for each in body or () if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
        body = next((node.body for node in nodes if node.name == name), None)
    return body is not None
