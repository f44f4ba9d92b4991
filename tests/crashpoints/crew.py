"""The product whose processes can crash: each service once or twice, started by `process` in place of its own app."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient

from deploy.local.product import Product, ServiceProcess
from popfax_contracts.topics import SERVICES, Principal
from tests.conftest import make_stack
from tests.crashpoints.process import SHORT, traps
from tests.crashpoints.trap import Trap
from tests.e2e.driver import KILLED_SETTINGS, World, admin

FIRST, SECOND = "only", "second"
"""The replicas' names."""

_SESSIONS = """
SELECT state, wait_event FROM pg_stat_activity AS session WHERE application_name LIKE %s AND (xact_start IS NOT NULL
OR EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND locktype = 'advisory' AND granted))
"""


class Crew:
    """All processes of the services, and a trap for each service."""

    def __init__(self, product: Product, mistakes: Mapping[Principal, str], sessions: str) -> None:
        """The product's services are launched by `crewed`."""
        self.product = product
        self.traps = {service: Trap(traps(product.stack.directory) / service.value) for service in SERVICES}
        self._mistakes = mistakes
        self._sessions = sessions
        self._second: list[ServiceProcess] = []
        self._processes: dict[int, ServiceProcess] = {}
        self._admin: AdminClient | None = None
        product.services = {service: self._made(service) for service in SERVICES}

    def _made(self, service: Principal, name: str = "") -> ServiceProcess:
        mistake = self._mistakes.get(service, "-")
        run = ("-m", "tests.crashpoints.process", "serve", service.value, self._sessions, mistake)
        return ServiceProcess(service, self.product.stack, name=name, run=run)

    def launch(self, process: ServiceProcess, **settings: str) -> None:
        """Start a process, without waiting for it."""
        process.launch(**settings)
        self.note(process)

    def note(self, process: ServiceProcess) -> None:
        """Remember a process by its id."""
        self._processes[process.pid] = process

    def process(self, pid: int) -> ServiceProcess:
        """Return the process that has this id, or had it until it was killed."""
        return self._processes[pid]

    def double(self) -> None:
        """Start a second replica of each service, if there is none, and wait until all are ready."""
        if self._second:
            return
        self._second = [self._made(service, f"{service}-second") for service in SERVICES]
        for each in self._second:
            self.launch(each, **{**self.product.services[each.principal].settings, "replica": SECOND})
        for each in self._second:
            each.wait_ready()

    def still_held(self, world: World, process: ServiceProcess) -> str:
        """Say what the servers keep for a silent process; an empty text once they have given it up."""
        service, replica = process.principal, process.settings["replica"]
        if held := world.rows(service, _SESSIONS, f"popfax-{service} % {replica}"):
            return f"PostgreSQL keeps {held} for {replica}"
        client = self._admin = self._admin or admin(self.product.stack.kafka)
        group = client.describe_consumer_groups([service.value])[service.value].result()
        members = {member.group_instance_id for member in group.members}
        return f"{replica} is in Kafka's group" if replica in members else ""

    def stop(self) -> None:
        """End the second replicas."""
        for each in self._second:
            each.stop()
        self._second.clear()


@contextmanager
def crewed(
    directory: Path,
    settings: Mapping[str, str] = KILLED_SETTINGS,
    *,
    sessions: str = SHORT,
    mistakes: Mapping[Principal, str] | None = None,
) -> Iterator[Crew]:
    """A product whose processes can crash, some with a planted mistake. It is removed at the end."""
    crew = Crew(Product(make_stack(directory)), mistakes or {}, sessions)
    product = crew.product
    try:
        product.stack.start()
        product.launch_services(**settings)
        product.prepare()
        product.wait_ready()
        for each in product.services.values():
            crew.note(each)
        yield crew
    finally:
        crew.stop()
        product.stop_services()
        product.stack.remove()
