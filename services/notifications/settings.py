"""Notifications' settings, besides those of every service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, HttpUrl, SecretStr, model_validator

from services.chassis import security
from services.chassis.settings import ProtectedUrl, ServiceSettings


class NotificationsSettings(ServiceSettings):
    """The mail server, and the addresses from which mails come and to which they link."""

    smtp_host: str = Field(description="the mail server")
    smtp_port: int = Field(25, ge=1, le=65535, description="its port")
    smtp_security: Literal["none", "starttls", "tls"] = Field(
        "none",
        description="`none` on one machine alone; `tls` from the first byte; or `starttls`, without which no mail goes",
    )
    smtp_ca_file: Path | None = Field(
        None, description="certificates (PEM) of the authorities that the mail server is trusted by; none: the system's"
    )
    smtp_username: str | None = Field(None, description="who we are to the mail server, if it asks")
    smtp_password: SecretStr | None = Field(None, min_length=1, description="and our password there")
    smtp_connections: int = Field(
        8, ge=1, le=100, description="connections of one replica to the mail server, kept open while there are mails"
    )
    smtp_mails_per_s: float | None = Field(
        None,
        ge=0.1,
        description="mails that one replica begins per second at most, over all its connections; without it, as many "
        "as the mail server takes. Of a limit that is the mail server's, give each replica its share",
    )
    mail_from: str = Field("no-reply@popfax.example", description="the sender's address; its domain names Message-IDs")
    password_link: ProtectedUrl = Field(
        HttpUrl("https://www.popfax.example/password"), description="the platform's page where a password is chosen"
    )
    invitation_link: ProtectedUrl = Field(
        HttpUrl("https://www.popfax.example/invitation"),
        description="the page where an invitation is answered: `/invitation` of groups, or one of the platform's",
    )
    group_link: ProtectedUrl = Field(
        HttpUrl("https://www.popfax.example/groups"), description="the page of the group, to which owners' mails link"
    )
    account_link: ProtectedUrl = Field(
        HttpUrl("https://www.popfax.example/account"),
        description="the platform's page where an account is extended, to which mails about its end link",
    )
    mail_sender: bool = Field(True, description="false leaves the sending to other replicas")
    mails_at_once: int = Field(
        100, ge=1, le=1000, description="mails in one round of the sender; two rounds are under way at once"
    )
    mail_backoff_s: tuple[float, ...] = Field(
        (5, 30, 120, 600, 1800, 3600),
        min_length=1,
        description="seconds before the next attempt at a mail that was put off; the last one for all that follow",
    )
    mail_lease_s: float = Field(
        120, ge=4, le=3600, description="how long a mail is left to who is sending it, should that one have died"
    )
    mail_poll_s: float = Field(
        1, gt=0, le=60, description="how often the sender looks for mails, unless its own replica has just made some"
    )

    mail_retention_days: int = Field(
        90,
        ge=1,
        description="how long mails that were sent, or will not be, are kept, without text and address; not less than"
        " `inbox_retention_days`",
    )

    @model_validator(mode="after")
    def _mails_outlast_messages(self) -> Self:
        if self.mail_retention_days < self.inbox_retention_days:
            raise ValueError("mail_retention_days is less than inbox_retention_days: a mail would be sent twice")
        return self

    @model_validator(mode="after")
    def _mails_are_protected(self) -> Self:
        self._require(
            self.smtp_security != "none" or security.is_loopback(self.smtp_host),
            f"{self.smtp_host} would be reached without TLS: set smtp_security to tls or starttls",
        )
        if self.smtp_security != "none":
            security.client_context(self.smtp_ca_file)
        elif self.smtp_ca_file is not None:
            raise ValueError("there is smtp_ca_file, and smtp_security is none")
        return self
