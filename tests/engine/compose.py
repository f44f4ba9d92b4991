"""The whole product with compose, as deploy/docker/README.md says, on servers in containers: it is well, and is used.

No container of ours has a shell here, so none needs one.
"""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.local.ports import free_port
from deploy.local.process import wait_until
from deploy.paths import CHECKOUT
from tests.engine.docker import IMAGES, inspect, run, without_shells

FILE = CHECKOUT / "deploy" / "docker" / "compose.yaml"
DIRECTIONS = CHECKOUT / "deploy" / "docker" / "README.md"
PORTS = ("GROUPS_PORT", "LEDGER_PORT", "PROVISIONING_PORT", "NOTIFICATIONS_PORT")
SERVICES = ("groups", "ledger", "provisioning", "notifications")
START_S = 180.0


class Composed:
    """The product, as compose runs it for one test."""

    def __init__(self, directory: Path) -> None:
        self._project = f"popfax-test-{os.getpid()}"
        self._environment = os.environ | {name: str(free_port()) for name in PORTS}
        self._environment["SECRETS"] = str(directory / ".local" / "compose")
        self._files = ["-f", str(FILE), "-f", str(_without_shells(directory))]
        self._program = ["docker", "compose"] if _has_plugin() else ["docker-compose"]

    def compose(self, *arguments: str, timeout_s: float = START_S) -> str:
        """Return what compose prints. Fails with what it printed if it ends badly."""
        command = [*self._program, "-p", self._project, *self._files, *arguments]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def popfax(self, *arguments: str) -> str:
        """Run the operator's command line in its container."""
        return self.compose("run", "--rm", "-T", "popfax", *arguments)

    def container(self, service: str) -> str:
        """Return the id of a service's container, also of one that has ended."""
        ended = ["--all"] if self._program[-1] == "compose" else []  # which docker-compose 1 lists anyway
        return self.compose("ps", *ended, "-q", service).split()[0]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The product, with passwords that were made as the directions say."""
    directory = tmp_path_factory.mktemp("composed")
    (making,) = re.findall(r"```sh\n(mkdir -p \.local/compose.*?)```", DIRECTIONS.read_text(), re.DOTALL)
    subprocess.run(["sh", "-ec", making], cwd=directory, check=True, capture_output=True)
    made = Composed(directory)
    try:
        made.compose("up", "--detach")
        assert wait_until(lambda: all(_health(made, each) == "healthy" for each in SERVICES), START_S)
        yield made
    finally:
        made.compose("down", "--volumes")


def test_all_is_well(composed: Composed) -> None:
    assert json.loads(composed.popfax("doctor", "--json"))["findings"] == []


def test_account_is_created_and_its_member_welcomed(composed: Composed) -> None:
    owner, mark = str(uuid.uuid4()), uuid.uuid4().hex[:8]
    person = ("--set", "first_name=Anne", "--set", "last_name=Martin", "--set", "language=en")
    anne, paul = f"anne.{mark}@example.com", f"paul.{mark}@example.com"
    composed.popfax("send", "RegisterSubscriber", "--set", f"subscriber_id={owner}", "--set", f"email={anne}", *person)
    composed.popfax("send", "CreditUnits", "--set", f"account_id={owner}", "--set", "amount_units=200")
    plan = ("--set", "plan=send_receive", "--set", "price_units=120")
    created = composed.popfax("send", "CreateMemberAccount", "--actor", owner, *plan, "--set", f"email={paul}", *person)
    assert "member account created" in created
    mails = f"docker cp {composed.container('mailsink')}:/var/lib/popfax-mails - | tar -xO"
    assert wait_until(lambda: paul in run("sh", "-c", mails), 30.0)
    assert json.loads(composed.popfax("doctor", "--json"))["findings"] == []
    composed.popfax("audit")


@pytest.mark.parametrize("service", [*SERVICES, "mailsink", "topics", "migrations", "plans"])
def test_container_is_confined(composed: Composed, service: str) -> None:
    found = inspect(composed.container(service))
    host = found["HostConfig"]
    assert found["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] in (None, [])
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    shells = [each for each in host["Binds"] if each.startswith("/dev/null:")]
    assert len(shells) > 1, "it has a shell, so this run does not show that none is needed"


def _health(composed: Composed, service: str) -> str:
    return str(inspect(composed.container(service))["State"]["Health"]["Status"])


def _has_plugin() -> bool:
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def _without_shells(directory: Path) -> Path:
    """Write a compose file that takes the shells away from all that runs an image of ours."""
    hidden = [each.removeprefix("--volume=") for each in without_shells(IMAGES["service"])]
    services = yaml.safe_load(FILE.read_text())["services"]
    ours = [name for name, each in services.items() if each["image"] in IMAGES.values()]
    written = directory / "without-shells.yaml"
    written.write_text(yaml.safe_dump({"services": {name: {"volumes": hidden} for name in ours}}))
    return written
