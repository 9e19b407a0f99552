"""Sections `schema_registry` and `schemas`: the sources of writer schemas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

from pydantic import SecretStr, field_validator, model_validator

from tokentrace.config.fields import PositiveDuration, SecretUrl, http_url
from tokentrace.config.section import Section, located

_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: Part of the address of Apicurio's own API.
APICURIO_PATH: Final = "/apis/registry/v"


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
    """The Schema Registry: a Confluent-compatible one, or Apicurio's own API."""

    url: SecretUrl = ""
    """Base URL; empty if there is no registry."""
    auth: RegistryAuth | None = None
    """Credentials."""
    tls: RegistryTls = RegistryTls()
    """TLS files."""
    timeout: PositiveDuration = 5.0
    """Time limit of one request."""
    ids: Literal["content", "global"] = "content"
    """Meaning of Apicurio's 8-byte ids; `global` needs the url of Apicurio's own API (/apis/registry/v2 or v3)."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        return http_url(value) if value else value

    @model_validator(mode="after")
    def _knows_global_ids(self) -> SchemaRegistry:
        if self.ids == "global" and self.url and APICURIO_PATH not in self.url:
            raise located((("ids",), "global ids are known to Apicurio's own API alone: url ends in /apis/registry/v3"))
        return self


class Schemas(Section):
    """Writer schemas in files, for messages in Avro single-object encoding."""

    paths: tuple[Path, ...] = ()
    """Folders of .avsc files, in addition to the bundled span schema; relative to this file."""
    raw: Path | None = None
    """Schema of bare datums, for kafka.framing: raw."""
    glue: dict[str, Path] = {}
    """Schema versions of AWS Glue: the UUID of each, and the .avsc file of its schema."""

    @field_validator("glue")
    @classmethod
    def _are_uuids(cls, value: dict[str, Path]) -> dict[str, Path]:
        wrong = [name for name in value if not _UUID.fullmatch(name)]
        if wrong:
            raise located(*(((name,), "is not the UUID of a schema version") for name in wrong))
        return {name.lower(): path for name, path in value.items()}
