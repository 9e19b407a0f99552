"""Section `http_server`: the address, paths and access of the endpoint."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, StrictBool, field_validator, model_validator

from tokentrace.config.fields import HostPort, ListenAddress, PositiveDuration
from tokentrace.config.section import Section, located

#: Characters of a path that a URL holds as they are (RFC 3986).
_PATH: Final = frozenset(f"{string.ascii_letters}{string.digits}-._~/")


class Tls(Section):
    """HTTPS: PEM files. A changed certificate is read again within 10 s."""

    certificate: Annotated[Path, Field(examples=["tls.crt"])]
    """Certificate chain."""
    key: Annotated[Path, Field(examples=["tls.key"])]
    """Private key of the certificate."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Lowest version of TLS."""
    client_ca: Path | None = None
    """Authority whose certificate each client must present, probes too; empty if none need one."""


class HttpServer(Section):
    """HTTP endpoint for scrapes and health checks."""

    enabled: StrictBool = True
    """Serve the endpoint."""
    addr: ListenAddress = HostPort("0.0.0.0", 9090)
    """Listen address, `host:port` or `:port`."""
    prometheus_path: str = "/metrics/prometheus"
    """Path of the metrics."""
    health_path: str = "/health"
    """Path of liveness; `/ready` below it is readiness. Never requires the token."""
    auth_token: SecretStr | None = None
    """Bearer token that every path except the health path requires. It reads and changes nothing."""
    auth_token_file: Path | None = None
    """File with that token instead; a changed file is read again within a second."""
    admin_token: SecretStr | None = None
    """Bearer token that silences alerts, and reads. Without it nobody can."""
    admin_token_file: Path | None = None
    """File with that token instead."""
    ui: StrictBool = True
    """Serve the live page at `/ui`. Its files require no token, its numbers do."""
    tls: Tls | None = None
    """Serve HTTPS."""
    keep_alive_timeout: PositiveDuration = 75.0
    """Idle time after which a connection is closed."""

    @field_validator("auth_token", "admin_token")
    @classmethod
    def _not_empty(cls, value: SecretStr | None) -> SecretStr | None:
        # YAML reads a token that begins with "&" or "#", and is not quoted, as nothing.
        if value is None or not value.get_secret_value().strip():
            raise ValueError("is empty, which would disable authentication; set a token or remove the key")
        token = value.get_secret_value()
        if token.lower().startswith("bearer "):
            raise ValueError("is the token alone, without the word Bearer before it")
        if not token.isprintable() or not token.isascii():
            raise ValueError("has a character that no HTTP header can hold; use printable ASCII")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> HttpServer:
        for name in ("auth_token", "admin_token"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise located(((f"{name}_file",), f"set either {name} or {name}_file"))
        if self.auth_token is not None and self.auth_token == self.admin_token:
            raise located((("admin_token",), "must differ from auth_token, which every scraper has"))
        return self

    @field_validator("prometheus_path", "health_path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or value == "/" or value.endswith("/"):
            raise ValueError('must begin with "/", must not end with "/", and must not be "/"')
        if wrong := [character for character in value if character not in _PATH]:
            raise ValueError(f"has letters, digits and -._~/ alone, not {wrong[0]!r}")
        return value

    @model_validator(mode="after")
    def _separate_paths(self) -> HttpServer:
        if self.prometheus_path in (self.health_path, f"{self.health_path}/live", f"{self.health_path}/ready"):
            raise located((("prometheus_path",), f"must differ from health_path {self.health_path} and its own"))
        for name in ("prometheus_path", "health_path"):
            if self.ui and f"{getattr(self, name)}/".startswith("/ui/"):
                raise located(((name,), "must not be /ui or below it, where the live page is; or set ui to false"))
        return self
