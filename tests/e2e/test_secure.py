"""Three brokers, and TLS everywhere: secrets are rotated and a broker is killed under traffic, and nothing is lost."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from psycopg import sql

from deploy.local.certificates import Authority
from deploy.local.kafka import KafkaCluster
from deploy.local.keys import DevelopmentKeys
from deploy.local.passwords import write_private
from deploy.local.product import Product
from deploy.local.stack import Stack
from deploy.operator.kafka import ADMIN
from popfax_contracts.groups import MemberAccountCreated
from popfax_contracts.topics import SERVICES, Principal
from services.chassis import topic_ids
from services.chassis.topic_ids import TopicIds
from tests.e2e.driver import SETTLED_S, Owner, World, admin, wait

EVERY_S = 0.25

UNNOTICED_S = 6.0
"""Less than a cluster takes to miss a broker (`broker.session.timeout.ms`): until then it goes on to name it."""


@pytest.fixture
def world(secure_product: Product) -> Iterator[World]:
    """The product with TLS, as the platform sees it."""
    made = World(secure_product)
    yield made
    made.close()


class Traffic:
    """Asks for accounts, four a second, until it ends."""

    def __init__(self, world: World) -> None:
        self.owners = world.owners(4, units=10_000)
        self.sent: list[str] = []
        self._world = world
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait until something that was asked for from now on is done."""
        self._world.wire.flush()
        before = len(self.sent)
        wait(lambda: len(self.sent) > before, "something is asked for")
        self._world.answers(self.sent[-1:], MemberAccountCreated, timeout_s=SETTLED_S)

    def _send(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.sent.append(self._world.create(self.owners[len(self.sent) % len(self.owners)]))


@pytest.mark.drill
def test_secrets_are_rotated_and_a_broker_is_killed_under_traffic_and_nothing_is_lost(
    world: World, tmp_path: Path
) -> None:
    product, stack = world.product, world.stack
    assert isinstance(stack.kafka, KafkaCluster)
    killed, welcomed = stack.kafka.brokers[1], _welcomes(world)
    pids = {service: process.pid for service, process in product.services.items()}
    with Traffic(world) as traffic:
        traffic.goes_on()
        for service in SERVICES:
            _set_kafka_password(world, service)
            _rotate_database_password(world, service)
        killed.kill()
        traffic.goes_on()
        killed.start()
        late = _set_kafka_password(world, Principal.LEDGER, told=False)
        _rotate_certificates(world, tmp_path)  # so that all connect again, the ledger with the password of before
        _says_why(world, Principal.LEDGER, "kafka", "a broker refuses our password")
        _tell(world, Principal.LEDGER, "kafka_password", late)
        traffic.goes_on()
        _rotate_mail_password(world, traffic)
        _rotate_keys(world, traffic.owners[0], tmp_path)
    world.wire.flush()
    created = world.answers(traffic.sent, MemberAccountCreated, timeout_s=SETTLED_S)
    product.wait_ready()
    world.settle()
    world.check_log()
    assert pids == {service: process.pid for service, process in product.services.items()}, "nothing was restarted"
    assert all(not rows for rows in world.parked().values())
    assert _welcomes(world) == welcomed + len(created)
    encrypted = (
        "SELECT bool_and(ssl), count(*) > 4 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_port > 0"
    )
    assert _as_superuser(world, encrypted) == [(True, True)]


def _welcomes(world: World) -> int:
    """Count the welcome mails that were sent: others have used these databases, too."""
    ((count,),) = world.rows(
        Principal.NOTIFICATIONS, "SELECT count(*) FROM mails WHERE template = 'welcome' AND state = 'sent'"
    )
    return int(count)


def _rotate_certificates(world: World, scratch: Path) -> None:
    """Have clients trust another authority as well, and give each broker a new certificate."""
    ours = world.stack.authority
    assert ours is not None
    other = Authority(scratch / "other")
    other.make()
    write_private(ours.certificate, ours.certificate.read_text() + other.certificate.read_text())
    for number, broker in enumerate(world.stack.kafka.brokers, 1):  # type: ignore[attr-defined]
        certificate, key = ours.issue(f"kafka-{number}")
        write_private(broker.keystore, key.read_text() + certificate.read_text())
        taken_up = ConfigEntry(
            "listener.name.clients.ssl.keystore.location",
            str(broker.keystore),
            incremental_operation=AlterConfigOpType.SET,
        )
        resource = ConfigResource(ResourceType.BROKER, str(number), incremental_configs=[taken_up])
        client = admin(world.stack.kafka)  # kept: it takes its answers with it
        for done in client.incremental_alter_configs([resource]).values():
            done.result(SETTLED_S)
    for service in SERVICES:
        wait(lambda name=service: '"what": "certificates"' in _log(world, name), f"{service} has the new certificates")  # type: ignore[misc]


def _set_kafka_password(world: World, service: Principal, told: bool = True) -> str:
    """Change a service's password, and tell it, unless that is for later; return the password."""
    changed = UserScramCredentialUpsertion(
        str(service), ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), made := uuid4().hex.encode()
    )
    client = admin(world.stack.kafka)
    for done in client.alter_user_scram_credentials([changed]).values():
        done.result(SETTLED_S)
    if told:
        _tell(world, service, "kafka_password", made.decode())
    return made.decode()


def _rotate_database_password(world: World, service: Principal) -> None:
    """Change a service's password, tell it, and end its sessions: each is opened again with the new one."""
    file, made = world.stack.secrets / f"{service}_database_url", uuid4().hex
    before = file.read_text()
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(service), sql.Literal(made))
    _as_superuser(world, statement)
    url = f"postgresql+psycopg://{service}:{made}@{before.split('@', 1)[1]}"
    _tell(world, service, "database_url", url)
    world.reads_at(service, url)
    ending = sql.SQL("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}")
    _as_superuser(world, ending.format(sql.Literal(str(service))))


def _rotate_mail_password(world: World, traffic: Traffic) -> None:
    """Have the mail server forget the old password before we know the new one."""
    mail, made = world.stack.mail, uuid4().hex
    mail.kill()
    write_private(mail.logins, f"notifications:{made}\n")
    mail.start()
    _says_why(world, Principal.NOTIFICATIONS, "work", "it refuses our password")
    _tell(world, Principal.NOTIFICATIONS, "smtp_password", made)
    traffic.goes_on()
    wait(lambda: _ready(world, Principal.NOTIFICATIONS)["work"] is True, "mails go again", SETTLED_S)


def _rotate_keys(world: World, owner: Owner, scratch: Path) -> None:
    """Publish another key in place of the one that everybody has: tokens of the old one are good no longer."""
    old, new = world.stack.keys, DevelopmentKeys(scratch / "keys")
    client = world.client(owner.id)
    assert client.get("/v1/units").status == 200
    write_private(old.key_set, new.key_set.read_text())
    other = client.with_(new.token(owner.id))
    wait(lambda: other.get("/v1/units").status == 200, "the new key is known", 20)
    assert client.get("/v1/units").status == 401


def _tell(world: World, service: Principal, name: str, secret: str) -> None:
    write_private(world.stack.secrets / f"{service}_{name}", secret)


def _says_why(world: World, service: Principal, check: str, why: str) -> None:
    """Wait until a service is not ready for this reason, of which its log tells too."""
    found: Callable[[], bool] = lambda: why in _ready(world, service).get("why", {}).get(check, "")  # noqa: E731
    wait(found, f"{service} says that {why}", SETTLED_S)
    assert why in _log(world, service)


def _ready(world: World, service: Principal) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{world.product.services[service].url}/ready", timeout=5) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def _log(world: World, service: Principal) -> str:
    return (world.stack.directory / f"{service}.log").read_text()


def _as_superuser(world: World, statement: Any) -> list[Any]:
    url = world.stack.postgres.superuser_url.replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement)
        return done.fetchall() if done.description else []


@pytest.mark.drill
def test_topics_ids_are_told_while_a_broker_is_away(secure_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster names any of its brokers as the controller, in each answer another one: that is who is asked next."""
    monkeypatch.setattr(topic_ids, "EVERY_S", 0.4)
    config, away = secure_stack.kafka.client_config(ADMIN), secure_stack.kafka.brokers[2]  # type: ignore[attr-defined]
    creating = AdminClient({**config, "log_level": 0})
    creating.create_topics([NewTopic("asked-about", 1, 3)])["asked-about"].result()
    asking = [TopicIds(config, ["asked-about"]) for _ in range(4)]
    wait(lambda: len(_told(asking)) == len(asking), "all are told")
    away.kill()
    try:
        ends = time.monotonic() + UNNOTICED_S
        while time.monotonic() < ends:  # now some are sent to the broker that is away
            _told(asking)
        for ids in asking:
            ids.known["asked-about"] = "of a topic before"
        wait(lambda: "of a topic before" not in _told(asking), "all are told by another broker", 30)
    finally:
        away.start()


def _told(asking: list[TopicIds]) -> list[str]:
    """Have each ask, or take its answer; return what they know."""
    time.sleep(0.05)
    for ids in asking:
        ids.recreated()
    return [id_ for ids in asking for id_ in ids.known.values()]
