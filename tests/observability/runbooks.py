"""What a runbook must look like, and which commands it may tell somebody to type."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from deploy.operator.cli.app import app
from deploy.paths import CHECKOUT
from tests.observability import promql

RUNBOOKS = CHECKOUT / "docs" / "operations" / "runbooks"

SECTIONS = ["Meaning", "Impact", "Diagnosis", "Repair"]

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def faults(path: Path, metrics: Set[str]) -> list[str]:
    """Return what is wrong with a runbook. `metrics` are those that its queries may name."""
    text = path.read_text()
    titles = re.findall(r"^# (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    found = []
    if titles != [path.stem]:
        found.append(f"the title is {titles}, not {path.stem}")
    if sections != SECTIONS:
        found.append(f"the sections are {sections}, not {SECTIONS}")
    for section, body in _sections(text):
        if section in ("Diagnosis", "Repair") and not _BLOCK.search(body):
            found.append(f"{section} has no command")
        if not _BLOCK.sub("", body).strip():
            found.append(f"{section} says nothing")
    for line in commands(text):
        if (fault := fault_of(line, metrics)) is not None:
            found.append(f"{line}: {fault}")
    return found


def commands(text: str) -> list[str]:
    """Return the command lines in a document's blocks, without comments."""
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def fault_of(line: str, metrics: Set[str]) -> str | None:
    """Return what is wrong with a command line, None if it can be typed."""
    try:
        program, *arguments = shlex.split(line, comments=True)
    except ValueError as error:
        return str(error)
    check = _PROGRAMS.get(program)
    return check(arguments, metrics) if check else f"{program} is not a program that a runbook may name"


def _sections(text: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    yield from zip(parts[::2], parts[1::2], strict=True)


def _popfax(arguments: list[str], _: Set[str]) -> str | None:
    """Parse a command of ours as `popfax` would, up to the values, which may be placeholders."""
    command: Any = typer.main.get_command(app)
    try:
        context = command.make_context("popfax", list(arguments), resilient_parsing=False)
        while hasattr(command, "resolve_command"):
            words = [*context._protected_args, *context.args]
            if not words and command.invoke_without_command:
                break
            name, command, rest = command.resolve_command(context, words)
            context = command.make_context(name, rest, parent=context)
    except Exception as error:
        if type(error) is typer.BadParameter:  # not a subclass, such as that for a missing argument
            return None
        return str(error.format_message()) if hasattr(error, "format_message") else str(error)
    return None


def _promtool(arguments: list[str], metrics: Set[str]) -> str | None:
    match arguments:
        case ["query", "instant", "$PROMETHEUS", expression]:
            try:
                missing = promql.unknown([expression], metrics)
            except ValueError as error:
                return str(error)
            return f"no such metric: {missing[expression]}" if missing else None
    return "only `promtool query instant $PROMETHEUS 'EXPRESSION'` is understood"


def _curl(arguments: list[str], _: Set[str]) -> str | None:
    paths = [each for each in arguments if "/" in each]
    known = re.compile(r"\$REPLICA/(live|ready|metrics)")
    return (
        None if len(paths) == 1 and known.fullmatch(paths[0]) else "only $REPLICA/live, /ready and /metrics are known"
    )


def _python(arguments: list[str], _: Set[str]) -> str | None:
    match arguments:
        case ["-m", module, *_]:
            return None if find_spec(module) else f"there is no module {module}"
    return "only `python -m MODULE` is understood"


_PROGRAMS: Mapping[str, Callable[[list[str], Set[str]], str | None]] = {
    "popfax": _popfax,
    "promtool": _promtool,
    "curl": _curl,
    "python": _python,
}
