"""Plain English, checked: phrases that made readers stumble, each with what to write instead."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_THING = r"(?:role|principal|relay|database|document|prefix|topic|row|line|file|statement|key|copy|parameter|column)"
_EACH = r"(?:service|table|partition|setting|replica|message|record|batch|round|group|person|saga|transaction|mail|hop)"

PHRASES = {
    rf"\bone {_THING} an? {_EACH}\b": "“one … per …”: only units of time take “a”",
    rf"\b(?:CPU|[µm]s|[kM]B|bytes|messages|statements) an? {_EACH}\b": "“… per …”: only units of time take “a”",
    r"\bnone of ours\b": "“ignored”, or whose it is",
    r"\bat a pinch\b": "“preferably”, or say when",
    r"\banew\b": "“again”, “recreated”",
    r"\bmade again\b": "“recreated”",
    r"\bforgets one day\b": "“redelivered after the inbox's retention”",
    r"\bseldom\b": "“rarely”",
    r"\bdearer\b": "“more expensive”",
    r"\bfor ever\b": "“forever”, or “final”",
    r"\bplumbing\b": "“the chassis”",
    r"\baskers?\b": "“caller” over HTTP, “requester” of a command",
}
"""What is not to be written, as regular expressions, and what to write instead."""

_SUFFIXES = {".py", ".md", ".toml", ".yaml"}
_EXCEPT = (Path(__file__).name, "test_wording.py", "/migrations/")
"""The list itself and its test; and migrations, which never change once they are released."""


def documents(tree: Path) -> Iterator[Path]:
    """Yield every file of a checkout that people read and write."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=tree, check=True, capture_output=True, text=True)
    for name in listed.stdout.split("\0"):
        path = tree / name
        if path.suffix in _SUFFIXES and not any(part in f"/{name}" for part in _EXCEPT) and path.is_file():
            yield path


def banned_phrases(text: str) -> list[str]:
    """Find banned phrases, also across line breaks: the line, the phrase, and what to write instead."""
    found = []
    for phrase, better in PHRASES.items():
        for match in re.finditer(phrase.replace(" ", r"(?:\s|#)+"), text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{line}: {' '.join(match.group().split())!r}: write {better}")
    return found


def odd_docstrings(source: str) -> list[str]:
    """Find functions whose docstring does not say in the imperative what they return: `Return …`, as PEP 257 has it."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [
        f"{node.lineno}: {node.name}: {first!r}"
        for node in functions
        if re.match(r"(?:Gives?|Returns)\b", first := (ast.get_docstring(node) or "").partition("\n")[0])
    ]
