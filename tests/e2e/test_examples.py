"""The examples, as somebody outside this project runs them: a program of their own, and the platform's credentials."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.paths import CHECKOUT
from popfax_contracts.groups import LeaveGroup, MemberLeft
from popfax_contracts.message import group_of
from popfax_contracts.topics import Principal
from services.groups.domain import membership_of
from tests.e2e.driver import World, wait


@contextmanager
def running(world: World, example: str, output: Path) -> Iterator[None]:
    environment = {**os.environ, **world.stack.service_environment(Principal.PLATFORM), "PYTHONPATH": ""}
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(CHECKOUT / "examples" / example)], env=environment, stdout=file, stderr=file
        )
        try:
            yield
            assert process.poll() is None, output.read_text()
        finally:
            process.terminate()
            process.wait(20)


def test_a_command_made_with_the_contracts_package_is_done(world: World) -> None:
    environment = {**os.environ, **world.stack.service_environment(Principal.PLATFORM)}
    done = subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / "typed_command.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("done       SubscriberRegistered "), done.stdout + done.stderr


@pytest.mark.parametrize("example", ["membership_subscriber.py", "membership_reader.py"])
def test_a_new_subscriber_learns_todays_members_and_then_every_change(
    world: World, tmp_path: Path, example: str
) -> None:
    owner, ben, eve = world.owners(3)
    of = {each.id: str(membership_of(group_of(owner.id), each.id)) for each in (ben, eve)}
    world.join(owner, ben)
    output = tmp_path / "output"

    def said(what: str) -> bool:
        return what in output.read_text()

    with running(world, example, output):
        wait(lambda: said(f"{of[ben.id]} is one"), "a member of before")
        world.join(owner, eve)
        wait(lambda: said(f"{of[eve.id]} is one"), "a new member")
        world.ask(LeaveGroup(group_id=group_of(owner.id)), MemberLeft, actor=ben.id)
        wait(lambda: said(f"{of[ben.id]} is none any more"), "a member who left")
