"""README.md and docs/walkthrough.md tell the truth: their commands print what they say."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.product import Product
from deploy.local.running import write_settings
from deploy.paths import CHECKOUT, STATE
from tests.conftest import make_stack
from tests.e2e.typed import Shell, Step, steps_of, unmet

README = CHECKOUT / "README.md"
WALKTHROUGH = CHECKOUT / "docs" / "walkthrough.md"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A running product of our own, and the environment in which `popfax` finds it."""
    stack = make_stack(STATE / f"test-{os.getpid()}-walkthrough")
    inherited = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_BOOTSTRAP"))}
    try:
        with Product(stack):
            file = write_settings(stack.directory, stack)
            yield {**inherited, "POPFAX_ENV_FILE": str(file), "COLUMNS": "160", "NO_COLOR": "1"}
    finally:
        stack.remove()


@pytest.mark.parametrize(
    ("document", "least"),
    [
        pytest.param(README, 4, id="readme"),
        pytest.param(WALKTHROUGH, 10, id="walkthrough", marks=pytest.mark.drill),
    ],
)
def test_commands_print_what_the_document_says(environment: dict[str, str], document: Path, least: int) -> None:
    steps = steps_of(document.read_text())
    assert len(steps) >= least
    with Shell(environment) as shell:
        shell.follow(steps)


def test_example_program_publishes_and_reads(environment: dict[str, str]) -> None:
    with Shell(environment) as shell:
        shell.run('set -a; . "$POPFAX_ENV_FILE"; set +a')
        printed = shell.run(".venv/bin/python examples/first_command.py")
    assert unmet(["published …", "read popfax.provisioning.subscriber-registered.v1 …"], printed) is None, printed


def test_output_that_differs_is_found() -> None:
    assert unmet(["a … c", "d"], "a b c\n  d  \n") is None
    assert unmet(["d", "a … c"], "a b c\nd\n") == "a … c"
    assert unmet(["code units_short"], "code email_taken\n") == "code units_short"


def test_steps_are_read_with_their_continuations() -> None:
    document = "```console\n$ one \\\n    two\n1\n$ x='\n> y'\n```\n\n```sh\n1\n2\n```\n\n```ini\nno\n```\n"
    found = [Step("one \\\n    two", ["1"]), Step("x='\ny'")]
    assert steps_of(document) == found
    assert steps_of(document, whole_blocks=True) == [*found, Step("1\n2\n")]


def test_command_that_fails_in_the_middle_of_a_block_is_found() -> None:
    with Shell(os.environ) as shell, pytest.raises(AssertionError, match="failed"):
        shell.follow([Step("for each in 1 2; do\n  test $each = 2\ndone\n")])
