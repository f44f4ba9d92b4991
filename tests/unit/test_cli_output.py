"""What the command line prints in a narrow terminal: whoever copies an id, a link or a command gets the whole of it."""

import shlex
from uuid import UUID

import pytest

from deploy.operator.cli import output
from tests.unit.given import id_of

IDS = [id_of(f"row {number}") for number in range(4)]
PROSE = "a sentence that is longer than any terminal is wide, and so it is continued on the lines below"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.out, "_width", 80)


@pytest.mark.parametrize("ids", [IDS[:1], IDS[:2], IDS], ids=len)
def test_a_table_breaks_no_id_however_many_there_are(capsys: pytest.CaptureFixture[str], ids: list[UUID]) -> None:
    headings = [*(f"id {number}" for number, _ in enumerate(ids)), "what happened"]
    output.print_table(headings, [[*ids, PROSE]])
    printed = capsys.readouterr().out
    assert [each for each in map(str, ids) if each not in printed] == []
    assert PROSE not in printed, "it is wrapped, between words"
    assert [word for word in PROSE.split() if word not in printed.split()] == []


def test_a_table_breaks_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/var/lib/{'x' * 90}"
    output.print_table(("", ""), [("mails", path), ("Kafka", "127.0.0.1:1  (SASL/SCRAM)")])
    assert f"mails  {path}" in capsys.readouterr().out


def test_a_table_that_fits_is_no_wider_than_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("id", "what happened"), [(IDS[0], PROSE)])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_line_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(PROSE)
    assert capsys.readouterr().out == f"{PROSE}\n"


def test_a_long_command_is_continued_as_a_shell_reads_it() -> None:
    command = f".venv/bin/popfax send transfer-units --actor {IDS[0]} --set mode=amount --set members=all --timeout 5"
    lines = output.continued(command).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert shlex.split(output.continued(command).replace("\\\n", "")) == shlex.split(command)
    assert output.continued(".venv/bin/popfax audit").strip() == ".venv/bin/popfax audit"
