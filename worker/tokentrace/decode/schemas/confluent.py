"""The registry API of Confluent, which Apicurio, Karapace and Redpanda have too: confluent-kafka's client."""

from __future__ import annotations

import uuid

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from tokentrace.decode.schema_key import ApicurioId, RegistryId
from tokentrace.decode.schemas.settings import RegistrySettings
from tokentrace.errors import SchemaError


class ConfluentApi:
    """Requests to one registry. Failures are SchemaRegistryError, or of the network."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Raises ValueError, TypeError or OSError for invalid settings."""
        self._client = SchemaRegistryClient(settings.client_config())

    def schema(self, name: RegistryId) -> Schema:
        """Return a schema. Raises SchemaError for Apicurio's global ids, which this API does not know."""
        if isinstance(name, uuid.UUID):
            return self._client.get_schema_by_guid(str(name))
        if isinstance(name, ApicurioId):
            if name.of == "global":
                raise SchemaError(
                    "unknown_schema_id",
                    f"The message names a schema by Apicurio's {name}, which a Confluent-compatible API does not know; "
                    "set schema_registry.url to its own API, which ends in /apis/registry/v2 or v3.",
                )
            # The ids of this API are those of the content.
            return self._client.get_schema(name.value)
        return self._client.get_schema(name)

    def version(self, subject: str, version: int) -> Schema:
        """Return the schema of a subject's version."""
        return self._client.get_version(subject, version).schema

    def is_registry(self) -> bool:
        """Return whether the address answers as each registry does. Raises as `schema`."""
        return bool(self._client.get_schema_types())

    def forget(self) -> None:
        """Ask again for what was answered before."""
        self._client.clear_caches()  # type: ignore[no-untyped-call]
