"""Writer-schema lookup: finds the schema for the schema key of a message.

Fingerprints are looked up among schema files, ids in a Schema Registry. A missing schema is the message's fault
(`SchemaError`, a dead letter). An unavailable registry is not (`SchemaUnavailable`, retry).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokentrace.decode.framing import SchemaKey
from tokentrace.decode.schemas.files import (
    bundled_schema,
    fingerprint_of,
    load_folder,
    load_schema,
    released_schemas,
)
from tokentrace.decode.schemas.registry import Registry, RegistrySettings
from tokentrace.errors import ConfigError, SchemaError


class WriterSchemas:
    """All writer schemas that this worker can read.

    files: fingerprint (8 bytes, little-endian) -> schema. raw: the schema of unframed messages.
    """

    def __init__(
        self,
        files: Mapping[bytes, Any] | None = None,
        raw: Any | None = None,
        registry: Registry | None = None,
    ) -> None:
        spans = [schema for (_, name), schema in released_schemas().items() if name == "span"]
        spans.append(bundled_schema("span"))
        self._files = {**{fingerprint_of(span): span for span in spans}, **(files or {})}
        self._raw = raw
        self._registry = registry

    @classmethod
    def load(
        cls, folders: Iterable[Path] = (), raw: Path | None = None, registry: RegistrySettings | None = None
    ) -> WriterSchemas:
        """Load schema folders (`schemas.paths`) and the schema of unframed messages (`schemas.raw`).

        Raises ConfigError with every invalid file.
        """
        files: dict[bytes, Any] = {}
        raw_schema = None
        problems: list[str] = []
        for folder in folders:
            try:
                files.update(load_folder(folder, "schemas.paths"))
            except ConfigError as error:
                problems += error.problems
        try:
            raw_schema = load_schema(raw, "schemas.raw") if raw is not None else None
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return cls(files, raw_schema, Registry(registry) if registry is not None else None)

    @property
    def requests(self) -> Mapping[str, int]:
        """Number of registry requests by outcome: ok, not_found, error."""
        return self._registry.requests if self._registry is not None else {}

    def get(self, key: SchemaKey) -> Any:
        """Return the writer schema as parsed JSON.

        Raises SchemaError if there is no such schema, and SchemaUnavailable if the registry is unavailable.
        """
        if key.kind == "raw":
            if self._raw is None:
                raise SchemaError(
                    "schema_unusable", "kafka.framing is raw but no schema is configured; set schemas.raw."
                )
            return self._raw
        if isinstance(key.value, bytes):
            schema = self._files.get(key.value)
            if schema is None:
                raise SchemaError(
                    "unknown_fingerprint",
                    f"No schema file has the fingerprint {key.value.hex()}; add the writer's schema to schemas.paths.",
                )
            return schema
        if self._registry is None:
            raise SchemaError(
                "unknown_schema_id",
                f"The message names schema id {key.value} but no registry is configured; set schema_registry.url.",
            )
        return self._registry.get(int(key.value))
