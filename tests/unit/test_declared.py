"""Commands say what they are refused with: a handler can't return anything else, and nothing is declared in vain."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from popfax_contracts.catalogue import COMMANDS, MESSAGES, codes_of, is_declared
from popfax_contracts.codes import GroupsCode, LedgerCode, NotificationsCode, ProvisioningCode, RefusalCode
from popfax_contracts.groups import GroupRenamed, LeaveGroup, LeaveRefused, RenameGroup, RenameRefused
from popfax_contracts.ledger import UnitsCredited
from popfax_contracts.message import Command, MalformedCommand, Refusal
from popfax_contracts.topics import GROUPS_COMMANDS
from tests.declared import note
from tests.unit.given import id_of

CHECKOUT = Path(__file__).resolve().parents[2]

GROUP = id_of("group")
LEAVE = LeaveGroup(group_id=GROUP)


@pytest.mark.parametrize("code", [code for kind in RefusalCode.__subclasses__() for code in kind])
def test_every_code_has_its_meaning(code: RefusalCode) -> None:
    assert code.meaning.endswith(".")
    assert code.meaning[0].isupper()
    assert "\n" not in code.meaning


def test_every_code_is_declared_by_some_command_of_its_service() -> None:
    kinds: dict[str, type[RefusalCode]] = {
        "groups": GroupsCode,
        "ledger": LedgerCode,
        "notifications": NotificationsCode,
        "provisioning": ProvisioningCode,
    }
    for service, kind in kinds.items():
        own = [model for model in COMMANDS.values() if model.TOPICS[0].service == service]
        declared = [code for model in own for code in model.CODES]
        assert {type(code) for code in declared} == {kind}
        assert set(declared) == set(kind)


def test_every_refusal_is_some_commands() -> None:
    refusals = [model for model in MESSAGES.values() if issubclass(model, Refusal)]
    assert [model.__name__ for model in refusals if not codes_of(model)] == []


def test_a_handler_may_return_what_its_command_declares() -> None:
    note(LEAVE, [LeaveRefused(group_id=GROUP, code=GroupsCode.NOT_MEMBER, command_type=LEAVE.TYPE)])


@pytest.mark.parametrize(
    "refusal",
    [
        LeaveRefused(group_id=GROUP, code=GroupsCode.NOT_OWNER, command_type=LEAVE.TYPE),
        LeaveRefused(group_id=GROUP, code="not_a_member", command_type=LEAVE.TYPE),
        LeaveRefused(group_id=GROUP, code=GroupsCode.NOT_MEMBER, command_type="popfax.groups.leave.v1"),
        LeaveRefused(group_id=GROUP, code=GroupsCode.NOT_MEMBER, command_type=RenameGroup.TYPE),
        RenameRefused(group_id=GROUP, code=GroupsCode.NOT_OWNER, command_type=LEAVE.TYPE),
        RenameRefused(group_id=GROUP, code=GroupsCode.NOT_OWNER, command_type=RenameGroup.TYPE),
    ],
    ids=["another's code", "no code", "no command", "another command", "another event", "another command's refusal"],
)
def test_a_handler_that_returns_anything_else_fails(refusal: Refusal) -> None:
    with pytest.raises(AssertionError, match="does not declare"):
        note(LEAVE, [refusal])


def test_what_could_not_be_read_has_codes_of_its_own() -> None:
    malformed = next(model for model in MESSAGES.values() if issubclass(model, MalformedCommand))
    assert is_declared(malformed, "", "wrong_key")
    assert not is_declared(malformed, LEAVE.TYPE, "not_member")


def test_a_command_that_does_not_say_what_answers_it_is_none() -> None:
    with pytest.raises(TypeError, match="does not say what answers it"):

        class Dissolve(Command, type="popfax.groups.dissolve.v1", topic=GROUPS_COMMANDS, key="group_id"):
            group_id: UUID


@pytest.mark.parametrize(
    ("refusal", "codes"),
    [
        (RenameRefused, ()),
        (None, (GroupsCode.NOT_OWNER,)),
        (RenameRefused, (GroupsCode.NOT_OWNER, GroupsCode.NOT_OWNER)),
    ],
    ids=["no code", "no event", "a code twice"],
)
def test_a_command_is_refused_by_an_event_with_codes(
    refusal: type[Refusal] | None, codes: tuple[RefusalCode, ...]
) -> None:
    said = {"type": "popfax.groups.dissolve.v1", "topic": GROUPS_COMMANDS, "key": "group_id"}
    with pytest.raises(TypeError, match="with codes, each named once"):

        class Dissolve(Command, **said, answers=(GroupRenamed,), refusal=refusal, codes=codes):
            group_id: UUID


def test_a_command_is_answered_by_the_service_that_it_is_sent_to() -> None:
    with pytest.raises(TypeError, match="is not answered by the service"):

        class Dissolve(
            Command,
            type="popfax.groups.dissolve.v1",
            topic=GROUPS_COMMANDS,
            key="group_id",
            answers=(UnitsCredited,),
        ):
            group_id: UUID


# --- what no test reaches ---

CONFTEST = """
from pathlib import Path
from tests.declared import WholeRun

def pytest_configure(config):
    wanted = {("one", "refused"), ("another", "refused")}
    config.pluginmanager.register(WholeRun(wanted, list(Path(__file__).parent.glob("test_*.py"))))
"""
REACHES = "from tests.declared import REACHED\n\ndef test_it():\n    REACHED.add(({!r}, 'refused'))\n"


def test_a_whole_run_that_leaves_a_code_out_fails(tmp_path: Path) -> None:
    write(tmp_path, "one", "one")
    assert run(tmp_path, 2) == (1, ["another: refused"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "test_drill.py").write_text("def test_drill():\n    pass\n")
    assert run(tmp_path, 0, "-k", "not drill") == (1, ["another: refused"]), "what is left out is none of them"
    write(tmp_path, "another", "another")
    assert run(tmp_path, 0) == (0, [])


def test_a_run_of_some_tests_does_not(tmp_path: Path) -> None:
    write(tmp_path, "one", "one")
    write(tmp_path, "two", "one")
    for some in (["test_one.py"], ["-k", "test_it and not test_two"], ["test_one.py::test_it", "test_two.py"]):
        assert run(tmp_path, 0, *some) == (0, [])
    assert run(tmp_path, 0) == (1, ["another: refused"])


def write(directory: Path, name: str, reaches: str) -> None:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / f"test_{name}.py").write_text(REACHES.format(reaches))


def run(directory: Path, workers: int, *what: str) -> tuple[int, list[str]]:
    """Run pytest; return how it ended, and what it says was not reached."""
    program = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "no:cacheprovider", "-n", str(workers), *what]
    done = subprocess.run(
        program,
        cwd=directory,
        env={"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT}/contracts", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    marked = (line.partition("by no unit test: ") for line in done.stdout.splitlines())
    return done.returncode, [line for _, mark, line in marked if mark]
