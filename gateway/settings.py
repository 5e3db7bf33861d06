"""Owns the settings: what can be set, its default, and the one line an operator reads when a value is wrong."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.database import DEFAULT_URL, DatabaseUrl, parse_url, project_folder
from models.errors import SetupError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

PREFIX = "GATEWAY_"
# How Kubernetes writes the address of a service into variables of every pod beside it.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
Networks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], NoDecode]


class Settings(BaseSettings):
    """Read from the environment and `.env`; an empty variable is unset. Descriptions are shown by `serve --help`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    database_url: str = Field(DEFAULT_URL, description="sqlite://PATH or postgres://user:password@host:port/name")
    redis_url: str | None = Field(
        None,
        pattern=r"^rediss?://[^/?\s]+(/\d*)?(\?\S*)?$",
        description="redis://host:port/0, shares limits between workers",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, le=256, description="worker processes; more than one needs PostgreSQL and Redis")
    secret_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="signs sessions, seals credentials; at least 16 characters, as openssl rand -hex 32 makes them; "
        "made beside a SQLite database when absent",
    )
    brand: str = Field("SuperTomorrow", description="the name that customers read")
    signup: Literal["closed", "invite", "open"] = Field("closed", description="who may create an account")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+$",
        description="the address that customers use, as https://api.example.com, without a path; "
        "as they asked for it when absent",
    )
    contact: str | None = Field(None, description="an e-mail or web address where customers reach you")
    stripe_secret_key: SecretStr | None = Field(
        None, validation_alias="STRIPE_SECRET_KEY", description="with the next one, customers top up by Stripe Checkout"
    )
    stripe_webhook_secret: SecretStr | None = Field(
        None, validation_alias="STRIPE_WEBHOOK_SECRET", description="proves that a payment's news come from Stripe"
    )
    stripe_api_url: str | None = Field(
        None,
        validation_alias="STRIPE_API_URL",
        pattern=r"^https?://[^/\s]+$",
        description="where Stripe's API is answered instead of at Stripe, as by a test",
    )
    upstream_connect_timeout_s: float = Field(10.0, gt=0, description="to connect to a provider")
    upstream_first_byte_timeout_s: float = Field(120.0, gt=0, description="until a provider's answer begins")
    upstream_idle_timeout_s: float = Field(60.0, gt=0, description="longest silence inside an answer")
    write_timeout_s: float = Field(
        60.0, gt=0, description="how long a client may stop reading before it counts as gone"
    )
    keep_alive_s: float = Field(15.0, gt=0, description="a comment goes into a silent stream this often")
    drain_s: float = Field(
        5.0, ge=0, description="reads on after a client left a stream, to charge what was used; 0 = cut"
    )
    drain_max: int = Field(200, ge=0, description="streams read on at once after their clients left")
    shutdown_s: float = Field(30.0, ge=0, description="how long running requests may take to finish on SIGTERM")
    body_max_mib: int = Field(32, ge=1, le=1024, description="largest request body")
    cooldown_after: int = Field(3, ge=1, description="failures in a row until a route rests")
    cooldown_s: float = Field(5.0, gt=0, description="first rest of a failing route; doubles up to a minute")
    database_pool: int = Field(
        4, ge=1, le=100, description="connections of a worker to PostgreSQL, besides its ledger's"
    )
    spool_dir: Path | None = Field(
        None, description="where settlements wait while PostgreSQL is away; var/spool when absent; keep it on a disk"
    )
    log_format: Literal["pretty", "json"] = Field("pretty", description="logs on stderr, for people or for programs")
    log_requests: bool = Field(True, description="a line for each request that is over; never what is in it")
    metrics_allow: Networks = Field(
        (), description="networks that may read /metrics, beside loopback; comma separated, as 10.0.0.0/8"
    )
    trusted_proxies: Networks = Field(
        (), description="networks that may set X-Forwarded-*; comma separated, as 10.0.0.0/8"
    )

    @field_validator("metrics_allow", "trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
        return value

    @property
    def database(self) -> DatabaseUrl:
        return parse_url(self.database_url)

    @property
    def spool_folder(self) -> Path:
        return project_folder() / (self.spool_dir or Path("var") / "spool")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    alias = Settings.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + name.upper()


def load_settings(**given: object) -> Settings:
    """Settings from the environment, `.env` and `given`. Raises SetupError naming the variable and the remedy."""
    try:
        settings = Settings(_env_file=project_folder() / ".env", **given)  # type: ignore[arg-type,call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        known = {key: name for name in Settings.model_fields for key in (name, variable_of(name))}
        name = variable_of(known[place]) if place in known else PREFIX + place.upper()
        field = Settings.model_fields.get(known.get(place, ""))
        raise SetupError(f"{name}: {_what_is_wrong(first, name, field)}") from None
    parse_url(settings.database_url)
    _check_pair(settings, "stripe_secret_key", "stripe_webhook_secret")
    return settings


def _what_is_wrong(error: ErrorDetails, name: str, field: FieldInfo | None) -> str:
    """With what was given, where that is no secret, and what would be right."""
    if error["type"] == "too_short":
        # A secret key, for nothing else has a least length.
        return f"must have at least {error['ctx']['min_length']} characters; make one with: openssl rand -hex 32"
    if name == variable_of("port") and SERVICE_LINK.match(str(error["input"])):
        return (
            f"{error['input']!r} is what Kubernetes sets it to for a service called gateway; give the pod "
            "enableServiceLinks: false, or set it, or --port, to the port to listen on"
        )
    meaning = f" ({field.description})" if field is not None and field.description else ""
    # An address may hold a password.
    shown = "" if "SECRET" in name or "@" in str(error["input"]) else f", got {error['input']!r}"
    told = "is not of the form that it must have" if "pattern" in error["type"] else error["msg"]
    return f"{told}{shown}{meaning}"


def _check_pair(settings: Settings, *names: str) -> None:
    """Settings that are of use together only."""
    missing = [variable_of(name) for name in names if getattr(settings, name) is None]
    if 0 < len(missing) < len(names):
        (given,) = {variable_of(name) for name in names}.difference(missing)
        raise SetupError(f"{missing[0]}: is not set, but {given} is; set both to take payments, or neither")
