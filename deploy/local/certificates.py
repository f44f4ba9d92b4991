"""The local stack's own certificate authority, which says who is who on this machine and is trusted nowhere else."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.local.passwords import write_private
from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK

LIFETIME = timedelta(days=30)
NAMES = ("localhost", LOOPBACK)
"""What the servers' certificates are for."""


class Authority:
    """An authority in a directory of its own, made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.pem"
        """The certificate by which clients know what the authority has signed."""

    def make(self) -> None:
        """Make the authority, unless it is there and still good for a while."""
        private_directory(self.directory, passable=True)
        if self.certificate.exists() and not _expires_soon(self.certificate):
            return
        key, name = _key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Popfax on this machine")])
        signed = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_private(self.directory / "ca.key", _pem(key))
        self._publish(self.certificate, signed)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Sign a new certificate for a server or client; return its file and its key's."""
        authority = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        signing = load_pem_private_key((self.directory / "ca.key").read_bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        key, subject = _key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ip_address(each)) if each == LOOPBACK else x509.DNSName(each) for each in NAMES]
        signed = (
            _builder(subject, authority.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
            .sign(signing, hashes.SHA256())
        )
        certificate, private = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        write_private(private, _pem(key))
        self._publish(certificate, signed)
        return certificate, private

    def _publish(self, path: Path, certificate: x509.Certificate) -> None:
        write_private(path, certificate.public_bytes(Encoding.PEM).decode())
        path.chmod(0o644)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _expires_soon(certificate: Path) -> bool:
    ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return ends - datetime.now(UTC) < LIFETIME / 2
