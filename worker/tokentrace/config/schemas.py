"""Sections `schema_registry` and `schemas`: the sources of writer schemas."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr, field_validator, model_validator

from tokentrace.config.fields import PositiveDuration, SecretUrl, http_url
from tokentrace.config.section import Section, located


class RegistryAuth(Section):
    """Credentials for the Schema Registry: username and password, or a bearer token."""

    username: str | None = None
    """User name of basic authentication."""
    password: SecretStr | None = None
    """Password of basic authentication."""
    bearer_token: SecretStr | None = None
    """Token of bearer authentication."""

    @model_validator(mode="after")
    def _one_kind(self) -> RegistryAuth:
        basic = self.username is not None or self.password is not None
        if basic and (self.username is None or self.password is None):
            missing = "username" if self.username is None else "password"
            raise located(((missing,), "is required; username and password must be set together"))
        if basic == (self.bearer_token is not None):
            raise ValueError("set either username and password, or bearer_token")
        return self


class RegistryTls(Section):
    """TLS for connections to the Schema Registry."""

    ca: Path | None = None
    """Trusted certificate authority, a PEM file."""
    certificate: Path | None = None
    """Client certificate, a PEM file."""
    key: Path | None = None
    """Key of the client certificate."""

    @model_validator(mode="after")
    def _pair(self) -> RegistryTls:
        if self.key is not None and self.certificate is None:
            raise located((("certificate",), "is required; it is the certificate of key"))
        return self


class SchemaRegistry(Section):
    """The Confluent-compatible Schema Registry, for messages in the Confluent wire format."""

    url: SecretUrl = ""
    """Base URL; empty if there is no registry."""
    auth: RegistryAuth | None = None
    """Credentials."""
    tls: RegistryTls = RegistryTls()
    """TLS files."""
    timeout: PositiveDuration = 5.0
    """Time limit of one request."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return http_url(value) if value else value


class Schemas(Section):
    """Writer schemas in files, for messages in Avro single-object encoding."""

    paths: tuple[Path, ...] = ()
    """Folders of .avsc files, in addition to the bundled span schema; relative to this file."""
    raw: Path | None = None
    """Schema of bare datums, for kafka.framing: raw."""
