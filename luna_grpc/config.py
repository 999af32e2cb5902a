"""The settings: each is an environment variable `LUNA_…` and a flag of `luna serve`."""

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX: Final = "LUNA_"
# What Kubernetes puts into every pod for a Service named "luna", and "luna-grpc" (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_KUBERNETES_URL: Final = re.compile(r"(tcp|udp|sctp)://")
_KUBERNETES_NAME: Final = re.compile(r"LUNA_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
# In words for people, where pydantic has others.
_WORDS: Final = {
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_parsing": "it must be a number, for example 5 or 0.5",
    "bool_parsing": "it must be 1 or 0",
    "string_too_short": "it must not be empty",
    "greater_than_equal": "the least is {ge}",
    "less_than_equal": "the most is {le}",
    "string_pattern_mismatch": "it must be 1 to 64 letters, digits, '_', '.' or '-'",
    "literal_error": "it must be {expected}",
}
# Read by the examples and by commands that ask a registry; a machine may run a worker and a server.
_OTHER_NAMES: Final = frozenset(
    {
        "LUNA_REST_URL",
        "LUNA_ADDRESS",
        "LUNA_TLS",
        "LUNA_TLS_CA",
        "LUNA_TLS_CLIENT_CERT",
        "LUNA_TLS_CLIENT_KEY",
    }
)

Names = Annotated[tuple[str, ...], NoDecode]
"""A list, written with commas."""


class ConfigError(Exception):
    """A setting is wrong; the message is one line a setting, for the person who made it."""


class Settings(BaseSettings):
    """How a server is to run."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on, for both doors.")
    port: int = Field(default=4000, ge=0, le=65535, description="Port of the REST API and the panel; 0 picks a free one.")
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="Port of the gRPC API; 0 picks a free one.")
    auth_username: str = Field(default="admin", min_length=1, description="User name for Basic auth, on both doors.")
    auth_password: SecretStr = Field(
        default=SecretStr(""), description="Password for Basic auth; when empty, only loopback is served."
    )
    users_file: str = Field(
        default="", description="File with further users and their roles, made by luna user add, for example /etc/luna/users.toml."
    )
    max_failed_logins: int = Field(
        default=10, ge=0, description="Wrong logins taken from one address at a time; one more each second. 0: no limit."
    )
    tls_cert: str = Field(
        default="", description="File with the certificate of both doors and those between it and its CA, in PEM; empty: no TLS."
    )
    tls_key: str = Field(default="", description="File with the key of the certificate, in PEM, without a password.")
    tls_client_ca: str = Field(
        default="", description="File with CAs, in PEM; when set, both doors answer only clients with a certificate of one of them."
    )
    insecure: bool = Field(default=False, description="Allow an empty password on addresses that others can reach.")
    allowed_hosts: Names = Field(
        default=(), description="With an empty password: further Host names to answer to, with commas between; * for any."
    )
    cors_origins: Names = Field(
        default=(), description="Origins whose web pages may use the REST API, with commas between; * for any."
    )
    lease_ttl: float = Field(
        default=30.0, ge=0.5, le=86_400, description="Seconds after its last heartbeat at which an instance is DOWN."
    )
    lease_slack: float = Field(
        default=0.05, ge=0, le=1, description="What a heartbeat through REST gets on top, as a fraction of the TTL."
    )
    evict_after: float = Field(
        default=86_400.0, ge=0, description="Seconds after the end of its lease at which an instance is removed; 0: never."
    )
    warmup: float | None = Field(
        default=None,
        ge=0,
        le=3600,
        description="Seconds after an empty start without telling of removals; default: one TTL, at most 30.",
    )
    state_file: str = Field(
        default="",
        description="File that keeps registrations over restarts, for example /var/lib/luna/state.db; empty: memory only.",
    )
    store: SecretStr = Field(
        default=SecretStr(""),
        description="Redis that replicas share, for example redis://localhost:6379/0; empty: the memory of this process.",
    )
    store_namespace: str = Field(
        default="luna", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="What the keys in Redis begin with: one registry each."
    )
    shutdown_delay: float = Field(
        default=0.0, ge=0, le=3600, description="Seconds between saying NOT_SERVING and beginning to close."
    )
    shutdown_grace: float = Field(
        default=10.0, ge=0, le=3600, description="Seconds that requests in flight get to finish when stopping."
    )
    max_instances: int = Field(default=1_000_000, ge=0, description="The most instances in all; 0: no limit.")
    max_instances_per_service: int = Field(default=100_000, ge=0, description="The most instances of one service; 0: no limit.")
    max_instances_per_stream: int = Field(default=100_000, ge=1, description="The most instances that one heartbeat stream names.")
    max_heartbeat_streams: int = Field(default=100_000, ge=1, description="The most heartbeat streams at a time.")
    max_watchers: int = Field(default=10_000, ge=1, description="The most watches at a time.")
    max_change_streams: int = Field(
        default=1_000,
        ge=1,
        description="The most pages of the panel, or other readers, that follow changes through REST at a time.",
    )
    max_streams_per_connection: int = Field(
        default=250, ge=1, description="The most heartbeat streams and watches of one gRPC connection at a time."
    )
    max_streams_per_address: int = Field(
        default=0, ge=0, description="The same, of one address; 0: no limit, because many may share an address."
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="The most connections at a time, at each door; default: half of the open files that the system allows.",
    )
    max_connections_per_address: int = Field(
        default=0, ge=0, description="The most REST connections of one address at a time; 0: no limit."
    )
    max_body: int = Field(default=102_400, ge=1024, description="The most bytes of a REST request's body.")
    max_message: int = Field(default=4_194_304, ge=1024, description="The most bytes of a gRPC request.")
    max_header_size: int = Field(default=16_384, ge=1024, description="The most bytes of a request's headers, at both doors.")
    max_page_size: int = Field(default=1_000, ge=1, description="The most services in one page of ListServices.")
    max_listed: int = Field(
        default=2_000_000, ge=1, description="The most instances in all the lists that the REST door sends at a time."
    )
    header_timeout: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds that a client has to send the headers of a request, or its first bytes."
    )
    body_timeout: float = Field(default=30.0, gt=0, le=3600, description="Seconds that a REST client has to send a body.")
    write_timeout: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds after which a REST client is dropped that takes nothing of its answer."
    )
    idle_timeout: float = Field(
        default=75.0, gt=0, le=86_400, description="Seconds after which a connection is closed on which nothing is asked."
    )
    max_connection_age: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="Seconds after which gRPC clients are asked to connect anew, so that they spread over servers; 0: never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="debug, info, warning or error.")

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("auth_username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("Basic auth allows no colon in it")
        return value

    @field_validator("auth_username", "auth_password")
    @classmethod
    def _text(cls, value: str | SecretStr) -> str | SecretStr:
        try:
            (value.get_secret_value() if isinstance(value, SecretStr) else value).encode()
        except UnicodeEncodeError:
            raise ValueError("it is not text in UTF-8") from None
        return value

    @field_validator("store")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("it must be the URL of a Redis: redis://HOST:PORT/0, rediss://… with TLS, or unix:///PATH")
        return value

    @model_validator(mode="after")
    def _one_store(self) -> Self:
        if self.state_file and self.store.get_secret_value():
            raise ValueError(
                "--state-file / LUNA_STATE_FILE and --store / LUNA_STORE are both set: with a Redis, that keeps the registrations"
            )
        return self

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        given = [name for name in ("tls_cert", "tls_key", "tls_client_ca") if getattr(self, name)]
        missing = [name for name in ("tls_cert", "tls_key") if given and name not in given]
        if missing:
            raise ValueError(
                f"{flag(missing[0])} / {variable(missing[0])} is missing: {variable(given[0])} is set, and TLS takes a certificate "
                "and its key"
            )
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if not self.open_to_all or self.insecure or is_loopback(self.host):
            return self
        raise ValueError(
            f"the password is empty, and others can reach {self.host!r}: set LUNA_AUTH_PASSWORD, or listen on 127.0.0.1, "
            "or allow it with LUNA_INSECURE=1"
        )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags and environment only."""
        return init_settings, _Environment(settings_cls)

    @property
    def open_to_all(self) -> bool:
        """Whether whoever reaches a door is let in: by the empty password of the one user there is.

        With a users file or a client CA an empty password is nobody's.
        """
        return not self.users_file and not self.tls_client_ca and not self.auth_password.get_secret_value()

    @property
    def effective_warmup(self) -> float:
        """Seconds; see `warmup`."""
        return min(self.lease_ttl, 30.0) if self.warmup is None else self.warmup


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def flag(name: str) -> str:
    """Return the flag of a setting: `grpc_port` is `--grpc-port`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


class _Environment(EnvSettingsSource):
    """The environment, without what Kubernetes put there under our names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        return (None if _KUBERNETES_URL.match(str(value)) else value), key, is_complex


def load(flags: Mapping[str, object]) -> Settings:
    """Read the settings: a flag that is not None counts before the environment, that before the default.

    Raises:
        ConfigError: says which setting is wrong, and how.

    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError("\n".join(_line(detail) for detail in error.errors())) from None


def warnings(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield what in an environment looks like a setting and is none."""
    known = [variable(name) for name in Settings.model_fields]
    for name, value in sorted(environment.items()):
        if name in known and _KUBERNETES_URL.match(value):
            yield f"{name}={value} is ignored: Kubernetes sets it for a Service of that name"
        elif name.startswith(PREFIX) and not (name in known or name in _OTHER_NAMES or _KUBERNETES_NAME.fullmatch(name)):
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            yield f"{name} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else "; luna serve --help lists them")


def in_words(detail: ErrorDetails) -> str:
    """Return what pydantic has found, in words for people."""
    words = _WORDS.get(detail["type"])
    return words.format(**detail.get("ctx", {})) if words else detail["msg"].removeprefix("Value error, ").removesuffix(".")


def _line(detail: ErrorDetails) -> str:
    if not detail["loc"]:
        return in_words(detail)
    name = str(detail["loc"][0])
    shown = "the value" if name in {"auth_password", "store"} else repr(detail["input"])
    return f"{flag(name)} / {variable(name)}: {shown} is wrong: {in_words(detail)}"
