"""Writer schemas: from the key that a message carries to the schema that it was written with.

Fingerprints are looked up among schema files, ids in a Schema Registry. A schema that does not exist is the message's
fault (`SchemaError`, a dead letter); a registry that does not answer is not (`SchemaUnavailable`, try again).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokentrace.decode.framing import SchemaKey
from tokentrace.decode.schemas.files import bundled_schema, fingerprint_of, load_folder, load_schema
from tokentrace.decode.schemas.registry import Registry, RegistrySettings
from tokentrace.errors import ConfigError, SchemaError

__all__ = [
    "Registry",
    "RegistrySettings",
    "WriterSchemas",
    "bundled_schema",
    "fingerprint_of",
    "load_folder",
    "load_schema",
]


class WriterSchemas:
    """Every schema that this worker can read messages of.

    files: fingerprint (8 bytes, little-endian) -> schema. raw: the schema of unframed messages.
    """

    def __init__(
        self,
        files: Mapping[bytes, Any] | None = None,
        raw: Any | None = None,
        registry: Registry | None = None,
    ) -> None:
        span = bundled_schema("span")
        self._files = {fingerprint_of(span): span, **(files or {})}
        self._raw = raw
        self._registry = registry

    @classmethod
    def load(
        cls, folders: Iterable[Path] = (), raw: Path | None = None, registry: RegistrySettings | None = None
    ) -> WriterSchemas:
        """From schema folders (`schemas.paths`), the file of unframed messages (`schemas.raw`) and a registry.

        Raises ConfigError, naming every file that is no schema.
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
        """Registry requests by outcome: ok, not_found, error."""
        return self._registry.requests if self._registry is not None else {}

    def get(self, key: SchemaKey) -> Any:
        """The writer schema, as parsed JSON.

        Raises SchemaError where there is no such schema and SchemaUnavailable where the registry cannot tell now.
        """
        if key.kind == "raw":
            if self._raw is None:
                raise SchemaError(
                    "schema_unusable", "kafka.framing is raw but no schema says how to read it; set schemas.raw."
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
