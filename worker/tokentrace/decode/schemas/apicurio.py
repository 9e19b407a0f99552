"""Apicurio Registry's own API, versions 2 and 3: schemas by the ids of their content or of a version (global)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import httpx2 as httpx
from confluent_kafka.schema_registry import Schema, SchemaReference
from confluent_kafka.schema_registry.error import SchemaRegistryError

from tokentrace.decode.schema_key import ApicurioId, RegistryId
from tokentrace.decode.schemas.settings import RegistrySettings

#: Part of the API's address by which it is told from the Confluent-compatible one.
PATH: Final = "/apis/registry/v"


class ApicurioApi:
    """Requests to one registry. Failures are SchemaRegistryError, as those of Confluent's client, or of the network."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Raises ValueError, TypeError or OSError for invalid settings."""
        self._ids = settings.ids
        #: End of the address of a version's content.
        self._content = "" if f"{PATH}2" in settings.url else "/content"
        context = httpx.create_ssl_context(verify=settings.ca or True)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
        user, _, password = (settings.credentials or "").partition(":")
        headers = {} if settings.bearer_token is None else {"Authorization": f"Bearer {settings.bearer_token}"}
        self._client = httpx.Client(
            base_url=settings.url.rstrip("/") + "/",
            auth=(user, password) if settings.credentials else None,
            headers=headers,
            timeout=settings.timeout_s,
            verify=context,
        )

    def schema(self, name: RegistryId) -> Schema:
        """Return a schema by its id."""
        number, of = (name.value, name.of) if isinstance(name, ApicurioId) else (name, "")
        kind = "globalIds" if (of or self._ids) == "global" else "contentIds"
        return self._schema(f"ids/{kind}/{number}")

    def version(self, subject: str, version: int) -> Schema:
        """Return the schema of a version of an artifact. subject: `group/artifact`, both quoted."""
        group, _, artifact = subject.partition("/")
        return self._schema(f"groups/{group}/artifacts/{artifact}/versions/{version}", self._content)

    def _schema(self, path: str, content: str = "") -> Schema:
        answer = self._get(path + content)
        # A reference's version may be a text such as 1.0.0.
        references: Any = [
            SchemaReference(found["name"], _subject(found), found["version"])
            for found in self._get(f"{path}/references").json()
        ]
        return Schema(answer.text, answer.headers.get("X-Registry-ArtifactType", "AVRO"), references)

    def _get(self, path: str) -> httpx.Response:
        answer = self._client.get(path)
        if answer.status_code != 200:
            raise SchemaRegistryError(answer.status_code, -1, answer.text[:200])
        return answer

    def is_registry(self) -> bool:
        """Return whether the address answers as a registry does. Raises errors of the network."""
        answer = self._client.get("system/info")
        return answer.status_code == 200 and "version" in answer.text

    def forget(self) -> None:
        """Do nothing: no answer is kept here."""


def _subject(reference: dict[str, Any]) -> str:
    return f"{quote(reference.get('groupId') or 'default', safe='')}/{quote(reference['artifactId'], safe='')}"
