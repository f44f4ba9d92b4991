"""What groups needs to be told, by what a process of it does."""

from enum import StrEnum
from ipaddress import ip_network
from typing import Self

from limits import parse
from pydantic import Field, HttpUrl, TypeAdapter, field_validator, model_validator

from services.chassis.settings import ProcessSettings, ProtectedUrl, SagaSettings
from services.groups.domain import Quotas

_DEFAULT = Quotas()
_ADDRESS: TypeAdapter[HttpUrl] = TypeAdapter(ProtectedUrl)


class Role(StrEnum):
    """What a process of groups does."""

    ALL = "all"
    WEB = "web"
    """It serves the page and the API. It knows no Kafka: what is posted leaves through the outbox."""
    WORKER = "worker"
    """It consumes, relays, and fires timers."""


class WebSettings(ProcessSettings):
    """What a process needs to be told that serves the page and the API."""

    role: Role = Field(
        Role.ALL,
        description="`web` serves the page and the API, and needs no Kafka; `worker` does all else; `all` does both",
    )
    jwt_jwks: str | None = Field(
        None,
        description="the platform's public keys (JWKS): a file, or an `https://` address; without them neither API nor"
        " page is served",
    )
    jwt_audience: str = Field("popfax-groups", min_length=1, description="the `aud` that a token must have")
    jwt_issuer: str | None = Field(None, description="the `iss` that a token must have; none: any")
    jwt_development_keys: bool = Field(
        False, description="whether keys made for development (`kid` beginning with `dev-`) are good: here alone"
    )
    web_pool: int = Field(5, ge=1, le=50, description="connections to PostgreSQL for API and page, beside the others")
    sse_connections: int = Field(500, ge=0, description="browsers that may wait for changes at the same time")
    sse_connections_person: int = Field(5, ge=1, description="streams of changes that one person may have open")
    web_limit_address: str = Field(
        "1200/minute", description="requests that may come from one address, before it is known who asks"
    )
    web_limit_person: str = Field("300/minute", description="requests that one person may make")
    web_limit_commands: str = Field("60/minute", description="commands that one person may post")
    trusted_proxies: str = Field(
        "",
        description="addresses and networks of the proxies in front, separated by commas: their `X-Forwarded-For` and"
        " `X-Forwarded-Proto` are believed, and nobody else's",
    )
    platform_url: ProtectedUrl = Field(
        HttpUrl("https://www.popfax.example"), description="the platform's own site: where people log in, and pay money"
    )
    account_link: ProtectedUrl | None = Field(
        None,
        description="the platform's page where somebody extends their account and buys units; none: `platform_url`",
    )
    login_link: ProtectedUrl | None = Field(
        None,
        description="the platform's page where somebody logs in who then comes back here, at `/login`: for whoever"
        " follows a link to the page and is logged out; none: `platform_url`",
    )
    invitations_owner_day: int = Field(
        _DEFAULT.owner_day,
        ge=1,
        description="addresses that one owner may ask about on one day (UTC), to invite or to create an account",
    )

    @field_validator("jwt_jwks")
    @classmethod
    def _not_in_the_clear(cls, place: str | None) -> str | None:
        """Whoever can change the keys under way is anybody that they like."""
        if place and "://" in place:
            return str(_ADDRESS.validate_python(place))
        return place or None

    @field_validator("web_limit_address", "web_limit_person", "web_limit_commands")
    @classmethod
    def _is_rate(cls, text: str) -> str:
        parse(text)
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        for each in _listed(text):
            ip_network(each)
        return text

    @property
    def where_to_log_in(self) -> str:
        """Return the address at the platform where people log in and come back."""
        return str(self.login_link or self.platform_url)

    @property
    def proxies(self) -> list[str]:
        """Return the addresses and networks of the proxies that are believed."""
        return _listed(self.trusted_proxies)

    @property
    def account_page(self) -> str:
        """Return the address where somebody extends their account and buys units."""
        return str(self.account_link or self.platform_url)

    @model_validator(mode="after")
    def _web_has_keys(self) -> Self:
        if self.role is Role.WEB and self.jwt_jwks is None:
            raise ValueError("a process that serves the page and the API needs jwt_jwks: without keys nobody is known")
        return self


class GroupsSettings(SagaSettings, WebSettings):
    """All that groups needs to be told: also how many invitations are allowed."""

    invitations_owner_pending: int = Field(
        _DEFAULT.owner_pending, ge=1, description="invitations of one owner that may be pending"
    )
    invitations_address_day: int = Field(
        _DEFAULT.address_day, ge=1, description="invitation mails that one subscriber may get on one day, from anybody"
    )
    invitations_address_pending: int = Field(
        _DEFAULT.address_pending, ge=1, description="invitations of one subscriber that may be pending, from anybody"
    )

    @property
    def quotas(self) -> Quotas:
        """Return them as the handlers know them."""
        return Quotas(
            owner_day=self.invitations_owner_day,
            owner_pending=self.invitations_owner_pending,
            address_day=self.invitations_address_day,
            address_pending=self.invitations_address_pending,
        )


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]
