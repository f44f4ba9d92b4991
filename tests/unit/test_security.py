"""Which connections count as protected, what is refused, how each client is told, and that secrets are read again."""

import asyncio
import ssl
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError
from psycopg import OperationalError
from pydantic import ValidationError

from deploy.local.certificates import Authority
from popfax_contracts.topics import Principal
from services.chassis import kafka_access, postgres, renewal, security
from services.chassis.client_state import ClientState
from services.chassis.database import Cause, Outage
from services.chassis.settings import (
    SECRETS_DIRECTORY,
    DatabaseSettings,
    KafkaSettings,
    load_settings,
    settings_from,
)
from services.notifications.settings import NotificationsSettings

URL = "postgresql+psycopg://ledger:not-to-be-told"
HERE = {
    "LEDGER_KAFKA_BOOTSTRAP": "127.0.0.1:9092",
    "LEDGER_KAFKA_USERNAME": "ledger",
    "LEDGER_KAFKA_PASSWORD": "not-to-be-told",
    "LEDGER_DATABASE_URL": f"{URL}@localhost/ledger",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority of its own."""
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.make()
    return made


@pytest.fixture(autouse=True)
def _no_defaults_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("bootstrap", "remote"),
    [
        ("127.0.0.1:9092", []),
        ("localhost:9092,[::1]:9093,127.9.9.9:1", []),
        ("LOCALHOST:9092", []),
        ("127.0.0.1:9092,kafka:9092", ["kafka"]),
        ("localhost.example.com:9092", ["localhost.example.com"]),
        ("0.0.0.0:9092", ["0.0.0.0"]),
        ("127.1:9092", ["127.1"]),  # whatever a resolver may make of it
        ("[2001:db8::1]:9092", ["2001:db8::1"]),
    ],
)
def test_knows_the_brokers_on_other_machines(bootstrap: str, remote: list[str]) -> None:
    assert security.remote_brokers(bootstrap) == remote


@pytest.mark.parametrize("bootstrap", ["kafka", "", "a:1,", "a:1,,b:2", "::1", "[::1]", "SSL://a:1", "u@a:1", "a:b"])
def test_refuses_what_is_no_list_of_brokers(bootstrap: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|[Pp]ort"):
        security.remote_brokers(bootstrap)


@pytest.mark.parametrize(
    "url",
    [
        "@localhost/x",
        "@/x",
        "@/x?host=/var/run/postgresql",
        "@/x?host=@abstract",
        "@/x?host=127.0.0.1:1&host=localhost:2",
        "@db/x?hostaddr=127.0.0.1",
        "@db/x?sslmode=verify-full",
        "@/x?host=a&host=b&sslmode=verify-full",
        "@/x?service=s&sslmode=verify-full",
    ],
)
def test_takes_a_database_that_is_here_or_proves_its_name(url: str) -> None:
    assert security.unprotected_database(URL + url) is None


@pytest.mark.parametrize(
    "url",
    [
        "@db/x",
        "@127.0.0.1/x?host=db",
        "@localhost/x?hostaddr=10.0.0.1",
        "@/x?host=127.0.0.1:1&host=db:2",
        "@/x?host=/var/run/postgresql&host=db",
        "@localhost,db/x",
        "@db/x?sslmode=disable",
        "@db/x?sslmode=prefer",
        "@db/x?sslmode=require",
        "@db/x?sslmode=verify-ca",
        "@/x?service=s",
    ],
)
def test_refuses_a_database_elsewhere_that_does_not_prove_its_name(url: str) -> None:
    assert "verify-full" in (security.unprotected_database(URL + url) or "")


def test_a_url_is_completed_as_libpq_completes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db")
    assert security.unprotected_database(f"{URL}@/x") is not None
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert security.unprotected_database(f"{URL}@/x") is None
    assert security.unprotected_database(f"{URL}@/x?service=s") is not None, "its file goes before the environment"


@pytest.mark.parametrize("url", ["nonsense", f"{URL}@localhost:port/ledger"])
def test_no_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError, match="not a URL") as refused:
        settings_from(DatabaseSettings, "ledger", {"LEDGER_DATABASE_URL": url})
    assert "not-to-be-told" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"KAFKA_BOOTSTRAP": "127.0.0.1:9092,kafka:9092"}, "kafka would be reached without TLS"),
        ({"KAFKA_CA_FILE": "ca.pem"}, "kafka_security is SASL_PLAINTEXT"),
        ({"KAFKA_SECURITY": "SASL_SSL", "KAFKA_CA_FILE": "/no/such/file"}, "/no/such/file holds no certificates"),
        ({"KAFKA_SECURITY": "SASL_SSL", "KAFKA_CA_FILE": __file__}, "holds no certificates"),
        ({"KAFKA_SECURITY": "SASL_SSL", "KAFKA_KEY_FILE": "key.pem"}, "no certificate"),
        ({"KAFKA_SECURITY": "SSL"}, "kafka_certificate_file says who we are"),
        ({"KAFKA_PASSWORD": ""}, "at least 1"),
    ],
)
def test_refuses_settings_for_kafka(changed: dict[str, str], why: str) -> None:
    values = HERE | {f"LEDGER_{name}": value for name, value in changed.items()}
    with pytest.raises(ValidationError, match=why) as refused:
        settings_from(KafkaSettings, "ledger", values)
    assert "not-to-be-told" not in str(refused.value)


def test_what_is_not_protected_can_be_allowed() -> None:
    values = HERE | {"LEDGER_KAFKA_BOOTSTRAP": "kafka:9092", "LEDGER_ALLOW_UNPROTECTED": "true"}
    assert settings_from(KafkaSettings, "ledger", values).kafka_bootstrap == "kafka:9092"
    elsewhere = {"LEDGER_DATABASE_URL": f"{URL}@db/x", "LEDGER_ALLOW_UNPROTECTED": "true"}
    assert settings_from(DatabaseSettings, "ledger", elsewhere).allow_unprotected


def test_a_mail_server_elsewhere_needs_tls() -> None:
    here = {name.replace("LEDGER", "NOTIFICATIONS"): value for name, value in HERE.items()}
    with pytest.raises(ValidationError, match="mail would be reached without TLS"):
        settings_from(NotificationsSettings, "notifications", here | {"NOTIFICATIONS_SMTP_HOST": "mail"})
    given = here | {"NOTIFICATIONS_SMTP_HOST": "mail", "NOTIFICATIONS_SMTP_SECURITY": "starttls"}
    assert settings_from(NotificationsSettings, "notifications", given).smtp_security == "starttls"


def test_settings_of_a_mapping_come_from_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("LEDGER_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    with pytest.raises(ValidationError, match="kafka_bootstrap"):
        settings_from(KafkaSettings, "ledger", {"LEDGER_KAFKA_USERNAME": "x", "LEDGER_KAFKA_PASSWORD": "x"})


def test_both_clients_are_told_whom_to_trust_and_who_we_are(authority: Authority) -> None:
    certificate, key = authority.issue("ledger")
    values = HERE | {
        "LEDGER_KAFKA_BOOTSTRAP": "kafka-1:9093,kafka-2:9093",
        "LEDGER_KAFKA_SECURITY": "SSL",
        "LEDGER_KAFKA_CA_FILE": str(authority.certificate),
        "LEDGER_KAFKA_CERTIFICATE_FILE": str(certificate),
        "LEDGER_KAFKA_KEY_FILE": str(key),
    }
    del values["LEDGER_KAFKA_PASSWORD"]
    settings = settings_from(KafkaSettings, "ledger", values)
    told = kafka_access.librdkafka(settings)
    assert told["ssl.ca.location"] == str(authority.certificate)
    assert (told["ssl.certificate.location"], told["ssl.key.location"]) == (str(certificate), str(key))
    assert not [name for name in told if name.startswith("sasl")]
    Consumer(told | {"group.id": "ledger", "log_level": "0"}).close()  # it reads the files, and would refuse them here
    context = kafka_access.aiokafka(settings)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [each["subject"] for each in context.get_ca_certs()], "the authority of the file, and no other"
    assert len(context.get_ca_certs()) == 1


def test_a_certificate_needs_its_own_key(authority: Authority, tmp_path: Path) -> None:
    certificate, _ = authority.issue("ledger")
    _, other = authority.issue("groups")
    with pytest.raises(ValueError, match="is no certificate with the key"):
        security.client_context(authority.certificate, certificate, other)
    with pytest.raises(ValueError, match="no certificate of an authority"):
        security.client_context(certificate)


def test_secrets_are_read_again_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS_DIRECTORY, str(tmp_path))
    for name, value in HERE.items():
        (tmp_path / name.lower()).write_text(value)
    settings = load_settings(KafkaSettings, Principal.LEDGER)
    (tmp_path / "ledger_kafka_password").write_text("new\n")
    (tmp_path / "ledger_kafka_bootstrap").write_text("127.0.0.1:9999")
    settings.reread()
    assert (kafka_access.password(settings), settings.kafka_bootstrap) == ("new", "127.0.0.1:9092")


@pytest.mark.usefixtures("quiet")
def test_a_secret_that_is_just_being_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRETS_DIRECTORY, str(tmp_path))
    for name, value in HERE.items():
        (tmp_path / name.lower()).write_text(value)
    settings = load_settings(KafkaSettings, Principal.LEDGER)
    for half in (b"", b"\xff"):
        (tmp_path / "ledger_kafka_password").write_bytes(half)
        settings.reread()
        assert kafka_access.password(settings) == "not-to-be-told"


@pytest.mark.usefixtures("quiet")
def test_a_client_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ClientState()
    state.failed(KafkaError(KafkaError._TRANSPORT))
    assert state.trouble() == "it has not joined yet"
    state.failed(KafkaError(KafkaError._AUTHENTICATION))
    assert state.trouble() == "it has not joined yet (a broker refuses our password)"


@pytest.mark.parametrize(
    ("said", "reason", "cause"),
    [
        ('FATAL:  password authentication failed for user "x"', "it refuses our password", Cause.PRIVILEGE),
        ("no pg_hba.conf entry for host", "no line of its pg_hba.conf lets us in", Cause.PRIVILEGE),
        ("SSL error: certificate verify failed", "its certificate is not accepted, or ours is not", Cause.AWAY),
        ("connection refused", "OperationalError", Cause.AWAY),
    ],
)
def test_a_database_that_does_not_let_us_in_is_no_messages_fault(said: str, reason: str, cause: Cause) -> None:
    outage = postgres.translate(OperationalError(said))
    assert isinstance(outage, Outage)
    assert (str(outage), outage.cause) == (reason, cause)


@pytest.mark.usefixtures("quiet")
async def test_clients_are_told_of_other_passwords_and_certificates(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "EVERY_S", 0.01)
    monkeypatch.setenv(SECRETS_DIRECTORY, str(tmp_path))
    (ca_file := tmp_path / "ca.pem").write_bytes(authority.certificate.read_bytes())
    given = HERE | {"LEDGER_KAFKA_SECURITY": "SASL_SSL", "LEDGER_KAFKA_CA_FILE": str(ca_file)}
    for name, value in given.items():
        (tmp_path / name.lower()).write_text(value)
    settings = load_settings(KafkaSettings, Principal.LEDGER)
    made_with = kafka_access.access(settings)
    (tmp_path / "ledger_kafka_password").write_text("changed before the first look")
    told: asyncio.Queue[bool] = asyncio.Queue()
    looking = asyncio.create_task(renewal.renew(settings, made_with, told.put_nowait))
    assert await told.get() is False
    ca_file.write_text("half of it")
    await asyncio.sleep(0.05)
    assert told.empty(), "what can't be used is not taken up"
    ca_file.write_bytes(authority.certificate.read_bytes() * 2)
    assert await told.get() is True
    looking.cancel()
