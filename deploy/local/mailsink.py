"""The mail sink of the local stack: the SMTP server that delivers nothing, as a process of its own."""

import secrets
import signal
import smtplib
import ssl
import sys
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import lru_cache
from pathlib import Path

from deploy.local.certificates import Authority
from deploy.local.errors import PortTakenError, StackError
from deploy.local.mailserver import HANG_AFTER_DATA, REFUSE, REFUSE_FOR_GOOD
from deploy.local.passwords import write_private
from deploy.local.paths import private_directory
from deploy.local.ports import LOOPBACK, Port, answers, is_free
from deploy.local.process import Child
from deploy.paths import CHECKOUT

_USER = "notifications"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 5.0
_GREETING_TIMEOUT_S = 2.0


class MailSink:
    """The mail sink as a process of its own. The mails that it accepted outlive everything."""

    def __init__(self, directory: Path, port: Port | None = None, *, authority: Authority | None = None) -> None:
        """With an `authority`, it speaks TLS alone, and takes mails from who logs in."""
        self.mails = directory / "mails"
        self.logins = directory / "logins"
        """The file with a line `user:password` for each who may send mails, if they have to log in."""
        self._directory = directory
        self._authority = authority
        self._port = port or Port("POPFAX_SMTP_PORT")
        self._child = Child("mailsink", directory)

    @property
    def host(self) -> str:
        """Where it listens."""
        return LOOPBACK

    @property
    def port(self) -> int:
        """The port on which it listens. Known after the first start."""
        return self._port.number

    @property
    def environment(self) -> dict[str, str]:
        """The settings of notifications for it, by their environment names. Known after the first start."""
        found = {"NOTIFICATIONS_SMTP_HOST": self.host, "NOTIFICATIONS_SMTP_PORT": str(self.port)}
        if self._authority is not None:
            user, _, password = self.logins.read_text().splitlines()[-1].partition(":")
            found |= {
                "NOTIFICATIONS_SMTP_SECURITY": "tls",
                "NOTIFICATIONS_SMTP_CA_FILE": str(self._authority.certificate),
                "NOTIFICATIONS_SMTP_USERNAME": user,
                "NOTIFICATIONS_SMTP_PASSWORD": password,
            }
        return found

    @property
    def pid(self) -> int:
        """Its process id. Raises StackError when it does not run."""
        return self._child.pid

    @property
    def refuse(self) -> Path:
        """While this file exists, mails are refused for now."""
        return self.mails / REFUSE

    @property
    def refuse_for_good(self) -> Path:
        """While this file exists, mails are refused for good."""
        return self.mails / REFUSE_FOR_GOOD

    @property
    def hang_after_data(self) -> Path:
        """While this file exists, mails are kept and their senders get no answer."""
        return self.mails / HANG_AFTER_DATA

    def start(self) -> None:
        """Start, and return when it greets. Raises StackError, and leaves nothing running, when it does not."""
        private_directory(self._directory)
        private_directory(self.mails)
        self._child.end_earlier()
        self._port.serve(self._start_on)

    def stop(self) -> None:
        """End it."""
        self._child.stop(signal.SIGTERM, _STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._child.kill()

    def _start_on(self, port: int) -> None:
        command = [sys.executable, "-m", "deploy.local.mailserver", "--port", str(port), "--directory", str(self.mails)]
        if self._authority is not None:
            certificate, key = self._authority.issue("mail")
            command += ["--certificate", str(certificate), "--key", str(key), "--logins", str(self.logins)]
            if not self.logins.exists():
                write_private(self.logins, f"{_USER}:{secrets.token_hex(16)}\n")
        self._child.start(command, directory=CHECKOUT)
        try:
            self._child.wait_ready(lambda: self._greets(port), _START_TIMEOUT_S)
        except StackError as error:
            if not is_free(port):
                raise PortTakenError(f"port {port} is taken") from error
            raise

    def _greets(self, port: int) -> bool:
        if not answers(port):
            return False
        try:
            if self._authority is None:
                smtplib.SMTP(LOOPBACK, port, timeout=_GREETING_TIMEOUT_S).close()
            else:
                trusting = ssl.create_default_context(cafile=self._authority.certificate)
                smtplib.SMTP_SSL(LOOPBACK, port, timeout=_GREETING_TIMEOUT_S, context=trusting).close()
        except OSError:  # smtplib's errors are OSErrors
            return False
        return True


def read_mails(directory: Path) -> list[EmailMessage]:
    """The mails that a sink keeps in `directory`, oldest first: the same objects again for the same files."""
    return [_read_mail(path, path.stat().st_mtime_ns) for path in sorted(directory.glob("*.eml"))]


@lru_cache(maxsize=10_000)  # whoever waits for a mail reads all that are there, many times a second
def _read_mail(path: Path, _written_ns: int) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(path.read_bytes())
