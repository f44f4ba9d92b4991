"""The local stack: real servers, their passwords and permissions, and what is left of them after a crash."""

import json
import os
import shutil
import smtplib
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

# The package re-exports these names without saying so in the way that mypy wants.
from confluent_kafka.admin import AclBindingFilter, AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]

from deploy.local import jars
from deploy.local.kafka import STRANGER, KafkaBroker
from deploy.local.mailsink import read_mails
from deploy.local.paths import JARS, private_directory
from deploy.local.ports import LOOPBACK, Port, Ports, free_port, is_free
from deploy.local.postgres import PostgresServer
from deploy.local.process import wait_until
from deploy.local.stack import Stack, StackError, remove_abandoned
from deploy.operator import topics
from deploy.operator.kafka import ADMIN, answers_authenticated
from deploy.operator.topic_settings import CLUSTER
from deploy.paths import CHECKOUT, STATE
from popfax_contracts.topics import GROUPS_COMMANDS, GROUPS_EVENTS, LEDGER_EVENTS, SERVICES, TOPICS, Principal, Topic
from tests.conftest import ANY_PORTS, make_stack, running_stack

DENIED_WITHIN_S = 10.0
PATIENCE_S = 30.0
"""How long what succeeds may take, on a machine that is busy with others."""
RECORD = b"record"
USERS = (*Principal, STRANGER)

embedded_only = pytest.mark.skipif(os.environ.get("STACK") == "containers", reason="about our own processes")
containers_only = pytest.mark.skipif(os.environ.get("STACK") != "containers", reason="about containers")


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack of this module's own, because these tests write nonsense to the topics and kill the servers."""
    with running_stack(STATE / f"test-{os.getpid()}-own") as running:
        yield running


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory for a stack that a test starts itself."""
    made = STATE / f"test-{os.getpid()}-{time.time_ns()}"
    yield made
    shutil.rmtree(made, ignore_errors=True)


class TestJars:
    @pytest.fixture
    def copied(self, tmp_path: Path) -> Path:
        jars.ensure()
        return Path(shutil.copytree(JARS, tmp_path / "jars"))

    def test_accepts_the_listed_jars_without_the_network(self, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "socket", _no_network)
        jars.ensure(copied)

    @pytest.mark.parametrize("name", [jar.name for jar in jars.read_lock()][::15])
    def test_refuses_a_tampered_jar_by_name(self, copied: Path, name: str) -> None:
        _flip_last_byte(copied / name)
        with pytest.raises(StackError, match=name):
            jars.ensure(copied)

    def test_refuses_a_jar_that_is_not_listed(self, copied: Path) -> None:
        (copied / "evil-1.0.jar").write_bytes(b"")
        with pytest.raises(StackError, match=r"evil-1\.0\.jar"):
            jars.ensure(copied)

    def test_verify_refuses_a_missing_jar_by_name(self, copied: Path) -> None:
        listed = jars.read_lock()
        (copied / listed[0].name).unlink()
        with pytest.raises(StackError, match=listed[0].name):
            jars.verify(copied, listed)

    @embedded_only
    def test_a_broker_does_not_start_on_a_tampered_jar(
        self, copied: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _flip_last_byte(copied / jars.read_lock()[0].name)
        monkeypatch.setattr("deploy.local.stack.JARS", copied)
        with pytest.raises(StackError, match=jars.read_lock()[0].name):
            Stack(directory, ANY_PORTS).start()


class TestKafkaPermissions:
    def test_denies_a_wrong_password_in_bounded_time(self, own: Stack) -> None:
        config = own.kafka.client_config(Principal.LEDGER)
        began = time.monotonic()
        assert not answers_authenticated(config | {"sasl.password": "wrong"}, timeout_s=3.0)
        assert time.monotonic() - began < DENIED_WITHIN_S
        assert answers_authenticated(config, timeout_s=PATIENCE_S)

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
    @pytest.mark.parametrize("user", USERS)
    def test_writes_what_it_may_write_and_nothing_else(self, own: Stack, user: str, topic: Topic) -> None:
        error = _write(own, user, topic.name)
        if user == topic.writer:
            assert error is None
        else:
            assert error is not None
            assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
    @pytest.mark.parametrize("user", USERS)
    def test_reads_what_it_may_read_and_nothing_else(self, own: Stack, user: str, topic: Topic) -> None:
        assert _write(own, ADMIN, topic.name) is None
        read = _read_first(own, user, topic.name)
        if user in topic.readers:
            assert read == RECORD
        else:
            assert isinstance(read, KafkaError)
            assert read.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED

    @pytest.mark.parametrize("group", Principal)
    @pytest.mark.parametrize("user", USERS)
    def test_commits_in_its_own_group_and_in_no_other(self, own: Stack, user: str, group: str) -> None:
        assert _may_use_group(own, user, group) == (user == group)

    @pytest.mark.parametrize("user", USERS)
    def test_creates_no_topic_by_writing_to_it(self, own: Stack, user: str) -> None:
        assert _write(own, user, "popfax.nobody.commands") is not None
        assert "popfax.nobody.commands" not in _admin(own).list_topics(timeout=5).topics


class TestTopics:
    """`compare` notices each kind of difference. Each test puts back what it changed."""

    def test_finds_no_difference_after_apply(self, own: Stack) -> None:
        assert topics.compare(own.kafka.client_config(ADMIN)) == []

    def test_creates_a_missing_topic_again(self, own: Stack) -> None:
        admin = _admin(own)  # must live as long as its futures
        for future in admin.delete_topics([LEDGER_EVENTS.name]).values():
            future.result()
        assert wait_until(lambda: topics.Kind.MISSING_TOPIC in _kinds(own), PATIENCE_S)
        assert topics.apply(own.kafka.client_config(ADMIN)) == []

    def test_reports_wrong_partitions_and_settings(self, own: Stack) -> None:
        admin = _admin(own)
        for future in admin.create_partitions([NewPartitions(LEDGER_EVENTS.name, 13)]).values():
            future.result()
        assert wait_until(lambda: _kinds(own) == {topics.Kind.WRONG_PARTITIONS}, PATIENCE_S)
        assert topics.Kind.WRONG_CONFIG in {each.kind for each in _compare_for_cluster(own)}
        assert topics.Kind.WRONG_REPLICATION in {each.kind for each in _compare_for_cluster(own)}
        self.test_creates_a_missing_topic_again(own)

    def test_reports_an_acl_too_many_and_creates_a_missing_one(self, own: Stack) -> None:
        extra = topics.Acl(f"User:{STRANGER}", "READ", "TOPIC", GROUPS_COMMANDS.name)
        missing = sorted(topics.expected_acls())[0]
        admin = _admin(own)
        _create_acl(admin, extra)
        _delete_acl(admin, missing)
        assert wait_until(lambda: _kinds(own) == {topics.Kind.EXTRA_ACL, topics.Kind.MISSING_ACL}, PATIENCE_S)
        remaining = topics.apply(own.kafka.client_config(ADMIN))
        assert [each.subject for each in remaining] == [str(extra)]
        _delete_acl(admin, extra)
        assert wait_until(lambda: not _kinds(own), PATIENCE_S)


class TestKafkaCrash:
    def test_keeps_acknowledged_records_through_a_kill(self, own: Stack) -> None:
        admin = _admin(own)
        admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])["kept"].result()
        assert wait_until(lambda: _write(own, ADMIN, "kept", b"acknowledged") is None, PATIENCE_S)
        bootstrap = own.kafka.bootstrap
        own.kafka.kill()
        own.kafka.start()
        assert own.kafka.bootstrap == bootstrap
        assert _read_first(own, ADMIN, "kept") == b"acknowledged"


class TestPostgres:
    @pytest.mark.parametrize("owner", SERVICES)
    @pytest.mark.parametrize("role", SERVICES)
    def test_lets_a_role_into_its_own_database_alone(self, own: Stack, role: Principal, owner: Principal) -> None:
        url = _psycopg_url(own.postgres.url(role)).rsplit("/", 1)[0] + f"/{owner}"
        if role == owner:
            _query(url, "CREATE TABLE mine (id int); DROP TABLE mine")
        else:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                _query(url, "SELECT 1")

    def test_refuses_a_wrong_password(self, own: Stack) -> None:
        right = _psycopg_url(own.postgres.url(Principal.LEDGER))
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            _query(right.replace("ledger:", "ledger:not-"), "SELECT 1")

    def test_keeps_commits_through_a_kill(self, own: Stack) -> None:
        url = _psycopg_url(own.postgres.url(Principal.LEDGER))
        _query(url, "CREATE TABLE kept AS SELECT 42 AS value")
        uncommitted = psycopg.connect(url)
        uncommitted.execute("INSERT INTO kept VALUES (43)")
        own.postgres.kill()
        own.postgres.start()
        uncommitted.close()
        assert own.postgres.url(Principal.LEDGER).endswith(url.removeprefix("postgresql"))
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT value FROM kept").fetchall() == [(42,)]

    def test_is_durable(self, own: Stack) -> None:
        with psycopg.connect(_psycopg_url(own.postgres.superuser_url)) as connection:
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                assert connection.execute(f"SHOW {name}").fetchone() == ("on",)


class TestMailSink:
    @pytest.fixture(autouse=True)
    def fresh_sink(self, own: Stack) -> Iterator[None]:
        for path in own.mail.mails.iterdir():
            path.unlink()
        yield
        own.mail.refuse.unlink(missing_ok=True)
        own.mail.hang_after_data.unlink(missing_ok=True)

    def test_keeps_what_it_accepts_oldest_first(self, own: Stack) -> None:
        _send(own, "première")
        _send(own, "seconde")
        assert [mail["Subject"] for mail in read_mails(own.mail.mails)] == ["première", "seconde"]

    def test_refuses_for_now_on_demand(self, own: Stack) -> None:
        own.mail.refuse.touch()
        with pytest.raises(smtplib.SMTPDataError) as refused:
            _send(own, "refused")
        assert refused.value.smtp_code == 451
        own.mail.refuse.unlink()
        _send(own, "again")
        assert [mail["Subject"] for mail in read_mails(own.mail.mails)] == ["again"]

    def test_keeps_the_mail_and_does_not_answer_on_demand(self, own: Stack) -> None:
        own.mail.hang_after_data.touch()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            _send(own, "unanswered")
        assert [mail["Subject"] for mail in read_mails(own.mail.mails)] == ["unanswered"]

    def test_keeps_mails_through_a_kill(self, own: Stack) -> None:
        _send(own, "before")
        own.mail.kill()
        own.mail.start()
        _send(own, "after")
        assert [mail["Subject"] for mail in read_mails(own.mail.mails)] == ["before", "after"]


class TestSettings:
    def test_gives_each_service_its_settings_and_no_others(self, own: Stack) -> None:
        for principal in (*Principal, ADMIN):
            environment = own.service_environment(principal)
            prefix = principal.upper()
            expected = {f"{prefix}_KAFKA_{name}" for name in ("BOOTSTRAP", "USERNAME", "PASSWORD")}
            expected |= {f"{prefix}_DATABASE_URL"} if principal in SERVICES else set()
            expected |= {"NOTIFICATIONS_SMTP_HOST", "NOTIFICATIONS_SMTP_PORT"} if prefix == "NOTIFICATIONS" else set()
            expected |= {"GROUPS_JWT_JWKS", "GROUPS_JWT_DEVELOPMENT_KEYS"} if prefix == "GROUPS" else set()
            assert environment.keys() == expected

    def test_keeps_passwords_where_only_we_can_read_them(self, own: Stack) -> None:
        for path in own.directory.glob("*/*"):
            if path.is_file() and any(password in path.read_text() for password in _passwords(own)):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    def test_keeps_data_logs_and_mails_where_nobody_else_can_read_them(self, own: Stack) -> None:
        _send(own, "private")
        seen = [own.directory, *own.directory.rglob("*")]
        assert any(path.suffix == ".eml" for path in seen)
        readable = [path for path in seen if not path.is_symlink() and path.stat().st_mode & 0o066]
        assert readable == []
        for name in ("kafka", "mail", "keys"):
            directory = own.directory / name
            if directory.exists():
                assert stat.S_IMODE(directory.stat().st_mode) == 0o700, directory

    def test_closes_directories_that_stood_open(self, directory: Path) -> None:
        opened = directory / "opened"
        opened.mkdir(mode=0o755, parents=True)
        opened.chmod(0o755)
        private_directory(opened, passable=True)
        assert stat.S_IMODE(opened.stat().st_mode) == 0o711
        private_directory(opened)
        assert stat.S_IMODE(opened.stat().st_mode) == 0o700

    @embedded_only
    def test_shows_no_password_on_a_command_line(self, own: Stack) -> None:
        for pid in _pids(own):
            line = " ".join(psutil.Process(pid).cmdline())
            assert not any(password in line for password in _passwords(own))

    @containers_only
    def test_shows_no_password_and_no_key_in_what_a_container_prints(self, own: Stack) -> None:
        from deploy.local.containers import KafkaContainer  # noqa: PLC0415 - its packages are slow to import

        assert isinstance(own.kafka, KafkaContainer)
        printed = own.kafka.output()
        assert printed, "it warns of its empty metadata log when it starts"
        assert not any(secret in printed for secret in [*_passwords(own), "storedKey", "serverKey"])

    @pytest.mark.parametrize("setting", ["POPFAX_KAFKA_PORT", "POPFAX_POSTGRES_PORT", "POPFAX_SMTP_PORT"])
    def test_names_the_setting_whose_port_is_taken(
        self, setting: str, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server((LOOPBACK, 0)) as taken:
            port = taken.getsockname()[1]
            monkeypatch.setenv(setting, str(port))
            refused = Stack(directory)
            with pytest.raises(StackError, match=f"{setting}={port}: .* is taken") as error:
                refused.start()
        assert len(str(error.value).splitlines()) == 1
        assert not _processes_of(directory)

    def test_names_the_setting_that_is_no_port(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POPFAX_SMTP_PORT", "70000")
        with pytest.raises(StackError, match="POPFAX_SMTP_PORT=70000"):
            Stack(directory)

    def test_uses_a_named_port(self, directory: Path) -> None:
        port = free_port()
        server = PostgresServer(directory, Port("POPFAX_POSTGRES_PORT", Ports(postgres_port=port).postgres_port))
        server.start()
        try:
            assert f":{port}/" in server.superuser_url
        finally:
            server.stop()
        assert is_free(port)

    def test_picks_no_port_that_is_picked_already(self, monkeypatch: pytest.MonkeyPatch) -> None:
        port = free_port()
        monkeypatch.setattr("deploy.local.ports._PICKED_FROM", range(port, port + 1))
        with pytest.raises(StackError, match="found no free port"):
            free_port()
        picks = f"from deploy.local import ports; ports._PICKED_FROM = range({port}, {port + 1}); ports.free_port()"
        other = subprocess.run([sys.executable, "-c", picks], cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert "found no free port" in other.stderr

    def test_picks_another_port_when_somebody_was_faster(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server((LOOPBACK, 0)) as taken:
            offers = iter([taken.getsockname()[1], free_port()])
            monkeypatch.setattr("deploy.local.ports.free_port", lambda: next(offers))
            server = PostgresServer(directory)
            server.start()
            server.stop()

    def test_refuses_a_second_stack_in_the_same_directory(self, own: Stack) -> None:
        with pytest.raises(StackError, match="another process runs a stack in"):
            make_stack(own.directory).start()
        assert answers_authenticated(own.kafka.client_config(ADMIN), timeout_s=PATIENCE_S)

    def test_refuses_the_data_of_another_kind_of_stack(self, directory: Path) -> None:
        (directory / "postgres").mkdir(parents=True)
        with pytest.raises(StackError, match="has data of a stack with 1 broker without TLS"):
            Stack(directory, ANY_PORTS, tls=True, brokers=3).start()
        with pytest.raises(StackError, match="1 broker, or 3"):
            Stack(directory, ANY_PORTS, brokers=2)

    def test_leaves_a_stack_in_use_alone_when_it_removes_abandoned_ones(self, own: Stack, directory: Path) -> None:
        (directory / "kafka").mkdir(parents=True)
        remove_abandoned(STATE, f"test-{os.getpid()}-")  # both, and no other process's
        assert own.directory.exists()
        assert not directory.exists()


@embedded_only
class TestDeathOfTheParent:
    def test_takes_all_children_along_and_the_next_start_works(self, directory: Path) -> None:
        parent, pids = _start_elsewhere(directory)
        everything = _with_children(pids)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(_lives(process) for process in everything), PATIENCE_S)
        with Stack(directory, ANY_PORTS) as again:
            assert answers_authenticated(again.kafka.client_config(ADMIN), timeout_s=PATIENCE_S)
        assert not _processes_of(directory)

    def test_ends_what_a_killed_run_left_where_the_kernel_does_not(self, directory: Path) -> None:
        """A server without its handle, as a killed run leaves it on systems without PR_SET_PDEATHSIG."""
        server = PostgresServer(directory / "postgres")
        server.start()
        left = psutil.Process(server.pid)
        Stack(directory, ANY_PORTS, fresh=True).stop()  # touches nothing: it was not started
        assert _lives(left)
        again = PostgresServer(directory / "postgres")
        again.start()
        assert not _lives(left)
        again.stop()
        server.stop()  # has nothing left to stop

    def test_spares_a_stranger_that_was_given_a_recorded_pid(self, directory: Path) -> None:
        stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            created = psutil.Process(stranger.pid).create_time()
            record = {"pid": stranger.pid, "created": created, "directory": str(directory / "kafka")}
            (directory / "kafka").mkdir(parents=True)
            (directory / "kafka" / "kafka.process.json").write_text(json.dumps(record))
            remove_abandoned(STATE, directory.name)
            assert not directory.exists()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_a_broker_that_can_not_start_leaves_nothing(self, directory: Path, tmp_path: Path) -> None:
        with pytest.raises(StackError, match="java failed"):
            KafkaBroker(directory, jars=tmp_path).start()
        assert not _processes_of(directory)


_ELSEWHERE = """
import json, sys, time
from pathlib import Path
from deploy.local.stack import Ports, Stack
stack = Stack(Path(sys.argv[1]), Ports.model_construct(), fresh=True)
stack.start()
print(json.dumps([stack.kafka.pid, stack.postgres.pid, stack.mail.pid]), flush=True)
time.sleep(600)
"""


def _start_elsewhere(directory: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A stack in a process of its own. Returns that process and the pids of its servers."""
    command = [sys.executable, "-c", _ELSEWHERE, str(directory)]
    parent = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as output:
        return parent, json.loads(output.readline())


def _with_children(pids: list[int]) -> list[psutil.Process]:
    servers = [psutil.Process(pid) for pid in pids]
    children = [child for server in servers for child in server.children(recursive=True)]
    assert children, "PostgreSQL has children"
    return servers + children


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _processes_of(directory: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [each for each in found if any(str(directory) in part for part in each.info["cmdline"] or ())]


def _pids(stack: Stack) -> list[int]:
    assert isinstance(stack.kafka, KafkaBroker)
    assert isinstance(stack.postgres, PostgresServer)
    return [stack.kafka.pid, stack.postgres.pid, stack.mail.pid]


def _passwords(stack: Stack) -> list[str]:
    files = [stack.directory / part / "passwords.json" for part in ("kafka", "postgres")]
    return [password for file in files for password in json.loads(file.read_text()).values()]


def _admin(stack: Stack) -> AdminClient:
    return AdminClient({**stack.kafka.client_config(ADMIN), "log_level": 0})


def _kinds(stack: Stack) -> set[topics.Kind]:
    return {each.kind for each in topics.compare(stack.kafka.client_config(ADMIN))}


def _compare_for_cluster(stack: Stack) -> list[topics.Difference]:
    return topics.compare(stack.kafka.client_config(ADMIN), CLUSTER)


def _create_acl(admin: AdminClient, acl: topics.Acl) -> None:
    for future in admin.create_acls([topics.to_binding(acl)]).values():
        future.result()


def _delete_acl(admin: AdminClient, acl: topics.Acl) -> None:
    binding = topics.to_binding(acl)
    exactly = AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )
    for future in admin.delete_acls([exactly]).values():
        assert len(future.result()) == 1


def _write(stack: Stack, user: str, topic: str, value: bytes = RECORD) -> KafkaError | None:
    """Write a record as a user. Returns the broker's error, or None when it acknowledged."""
    outcomes: list[KafkaError | None] = []
    config = stack.kafka.client_config(user) | {"acks": "all", "message.timeout.ms": "8000", "linger.ms": "0"}
    # A topic that is unknown is asked for again for 30 s by default.
    producer = Producer({**config, "log_level": 0, "topic.metadata.propagation.max.ms": 1000})
    producer.produce(topic, value, key="key", on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(DENIED_WITHIN_S) == 0
    return outcomes[0]


def _read_first(stack: Stack, user: str, topic: str) -> bytes | KafkaError:
    """The value of the first record that a user gets from any partition of a topic, or the broker's error."""
    config = stack.kafka.client_config(user) | {"group.id": user, "fetch.wait.max.ms": "50"}
    consumer = Consumer({**config, "log_level": 0, "enable.auto.commit": False})
    try:
        metadata = consumer.list_topics(topic, timeout=DENIED_WITHIN_S).topics[topic]
        denied: KafkaError | None = metadata.error
        if denied is not None:  # who may not even ask for the partitions may not read: Read implies Describe
            return denied
        consumer.assign([TopicPartition(topic, partition, 0) for partition in metadata.partitions])
        return _value_or_error(consumer.poll(DENIED_WITHIN_S))
    finally:
        consumer.close()


def _value_or_error(message: Message | None) -> bytes | KafkaError:
    assert message is not None, "neither a record nor a denial"
    error, value = message.error(), message.value()
    if error is not None:
        return error
    assert isinstance(value, bytes)
    return value


def _may_use_group(stack: Stack, user: str, group: str) -> bool:
    """Whether a user can commit an offset, of a topic that all principals may read, in a group.

    Asked as an administrator does, because a consumer tries again for 45 s before it believes a denial.
    """
    client = AdminClient({**stack.kafka.client_config(user), "log_level": 0})
    offsets = ConsumerGroupTopicPartitions(str(group), [TopicPartition(GROUPS_EVENTS.name, 0, 0)])
    try:
        client.alter_consumer_group_offsets([offsets], request_timeout=DENIED_WITHIN_S)[str(group)].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise
        return False
    return True


def _send(stack: Stack, subject: str) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "popfax@example.org", "member@example.org", subject
    mail.set_content("Bonjour")
    with smtplib.SMTP(stack.mail.host, stack.mail.port, timeout=5) as client:
        client.send_message(mail)


def _query(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def _psycopg_url(url: str) -> str:
    return url.replace("+psycopg", "", 1)


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _no_network(*_: object) -> None:
    raise AssertionError("used the network")
