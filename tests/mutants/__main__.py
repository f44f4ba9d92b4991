"""Makes every known mistake in a copy of the checkout, and has the layer that must catch it try: `make mutants`.

    python -m tests.mutants [--only WORD] [--layer LAYER] [--jobs N]

Without options all are tried, and the table goes into docs/testing.md. The exit code is 1 if a mutant survives, takes
longer than its bound, no longer applies, or if what catches it fails without it, too.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table

from deploy.paths import CHECKOUT
from tests.mutants.known import NotApplied, Trial, trials
from tests.mutants.tree import BROKEN_OFF, Tree

DOCUMENT = CHECKOUT / "docs" / "testing.md"
MEASURED = re.compile(r"(?<=<!-- measured: mutants \(make mutants\) -->\n).*?(?=<!-- end -->)", re.DOTALL)

FINDS = 1
"""The exit code of a layer that has caught something: pytest's for failed tests, and the simulation's."""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)
_SEED = re.compile(r"^seed (\d+): (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a trial: who caught the mutant, in which time; or why it counts as not caught."""

    trial: Trial
    seconds: float
    caught_by: str | None
    otherwise: str = ""


def attempt(tree: Tree, trial: Trial) -> Verdict:
    """Make one mistake and see whether its layer notices."""
    begun = time.monotonic()
    try:
        with tree.with_mistake(trial.patch) if trial.patch else nullcontext():
            code, printed = tree.run(_command(trial), trial.seconds)
    except (NotApplied, SyntaxError) as error:
        return Verdict(trial, 0.0, None, f"no longer applies: {error}")
    seconds = time.monotonic() - begun
    if code == FINDS and (caught_by := _caught_by(trial, printed)) is not None:
        return Verdict(trial, seconds, caught_by)
    if code == BROKEN_OFF:
        return Verdict(trial, seconds, None, f"not caught within {trial.seconds:.0f} s")
    return Verdict(trial, seconds, None, "survives" if code == 0 else f"can't be tried:\n{printed[-2000:]}")


def _command(trial: Trial) -> list[str]:
    if trial.selection is not None:
        return _pytest([trial.selection])
    own = [] if trial.patch else [trial.mutant]
    return ["-m", "tests.mutants.seeds", str(trial.seed), *own]


def _pytest(selections: Sequence[str]) -> list[str]:
    every = "drill or not drill"  # what is named runs, however long it takes
    options = ["-x", "-p", "no:cacheprovider", "--durations=0", "--durations-min=60", "-m", every]
    return ["-m", "pytest", *options, *selections]


def _caught_by(trial: Trial, printed: str) -> str | None:
    """Return the seed or the test that failed first; None if it was not a test that failed."""
    if trial.selection is None:
        found = _SEED.search(printed)
        return found and found.group()
    failed = _FAILED.search(printed)
    return failed and f"{failed.group(1).rpartition('::')[2]}: {failed.group(2) or ''}"


def without_mistakes(tree: Tree, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield what fails although no mistake was made, so that what it caught shows nothing."""
    selections = sorted({each.trial.selection for each in verdicts if each.trial.selection is not None})
    if selections:
        code, printed = tree.run(_pytest(selections), 60.0 * (10 + len(selections)))
        if code != 0:
            failed = _FAILED.search(printed)
            yield f"without a mistake: {failed.group() if failed else printed[-2000:]}"
    by_story: defaultdict[str, set[str]] = defaultdict(set)
    for each in verdicts:
        if found := _SEED.match(each.caught_by or ""):
            by_story[each.trial.story].add(found.group(1))
    for story, seeds in by_story.items():
        code, printed = tree.run(["-m", "tests.mutants.seeds", "only", story, *sorted(seeds)], 60.0 * (10 + len(seeds)))
        if code != 0:
            yield f"without a mistake: {story}: {printed[-2000:]}"


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the table of layers in Markdown."""
    lines = ["| layer | mutants | caught | longest |", "| --- | ---: | ---: | ---: |"]
    for layer in sorted({each.trial.layer for each in verdicts}):
        own = [each for each in verdicts if each.trial.layer == layer]
        caught = [each.seconds for each in own if each.caught_by]
        lines.append(f"| `tests/{layer}` | {len(own)} | {len(caught)} | {max(caught, default=0):.0f} s |")
    return "\n".join(lines) + "\n"


def _table(verdicts: Sequence[Verdict]) -> Table:
    table = Table("layer", "mutant", "caught by", box=None, title_justify="left")
    table.add_column("s", justify="right")
    for each in sorted(verdicts, key=lambda each: (each.caught_by is not None, each.trial.layer, each.trial.mutant)):
        found = each.caught_by or each.otherwise
        table.add_row(
            each.trial.layer, each.trial.mutant, found, f"{each.seconds:.1f}", style=None if each.caught_by else "red"
        )
    return table


def _all(wanted: Sequence[Trial], jobs: int, console: Console) -> tuple[list[Verdict], list[str]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory, ThreadPoolExecutor(jobs) as pool:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for number in range(jobs):
            trees.put(Tree(Path(directory) / str(number)))
        done: list[Verdict] = []

        def one(trial: Trial) -> None:
            tree = trees.get()
            verdict = attempt(tree, trial)
            trees.put(tree)
            done.append(verdict)
            said = verdict.caught_by or f"[red]{verdict.otherwise}[/]"
            console.print(
                f"{len(done)}/{len(wanted)} {trial.layer}: {trial.mutant}: {said} ({verdict.seconds:.1f} s)",
                highlight=False,
                soft_wrap=True,
            )

        list(pool.map(one, wanted))
        console.print("and without a mistake …")
        return done, list(without_mistakes(trees.get(), done))


def main(arguments: Sequence[str]) -> int:
    """Try them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--layer", help="a directory under tests, such as simulation")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at once")
    given = parser.parse_args(arguments)
    every = trials()
    wanted = [each for each in every if given.only in each.mutant and given.layer in (None, each.layer)]
    console = Console(width=None if sys.stdout.isatty() else 200)
    verdicts, faults = _all(wanted, given.jobs, console)
    console.print(_table(verdicts))
    console.print(summary(verdicts), highlight=False)
    survivors = [each for each in verdicts if each.caught_by is None]
    for fault in faults:
        console.print(f"[red]{fault}[/]", highlight=False)
    console.print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} are caught")
    if len(wanted) == len(every) and not survivors and not faults:
        DOCUMENT.write_text(MEASURED.sub(lambda _: summary(verdicts), DOCUMENT.read_text()))
    return 1 if survivors or faults or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
