"""Writer-schema lookup: finds the schema for the schema key of a message.

Fingerprints are looked up among schema files, ids in a Schema Registry. A missing schema is the message's fault
(`SchemaError`, a dead letter). A registry that is unavailable or still asked is not (`SchemaUnavailable`, retry).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokentrace.decode.schema_key import ApicurioId, RegistryId, SchemaKey
from tokentrace.decode.schemas.files import load_folder, load_schema
from tokentrace.decode.schemas.lookups import Lookups
from tokentrace.errors import ConfigError, SchemaError, SchemaUnavailable
from tokentrace.model.bundled_schemas import bundled_schema, fingerprint_of, released_schemas

if TYPE_CHECKING:
    # Its client takes long to import, which only a worker with a registry needs.
    from tokentrace.decode.schemas.registry import Registry


#: Kinds of keys that a registry looks up.
_IN_REGISTRY: Final = frozenset({"id", "guid", "apicurio"})


class WriterSchemas:
    """All writer schemas that this worker can read.

    files: fingerprint (8 bytes, little-endian) -> schema. raw: the schema of unframed messages. glue: id of a schema
    version of AWS Glue -> schema.
    """

    def __init__(
        self,
        files: Mapping[bytes, Any] | None = None,
        raw: Any | None = None,
        registry: Registry | None = None,
        wait_s: float = math.inf,
        glue: Mapping[uuid.UUID, Any] | None = None,
    ) -> None:
        """wait_s: longest time for which `fetch` waits for the registry."""
        spans = [schema for (_, name), schema in released_schemas().items() if name == "span"]
        spans.append(bundled_schema("span"))
        self._files = {**{fingerprint_of(span): span for span in spans}, **(files or {})}
        self._raw = raw
        self._glue = glue or {}
        self._registry = registry
        self._lookups = None if registry is None else Lookups(registry.get, wait_s)

    @classmethod
    def load(
        cls, folders: Iterable[Path] = (), raw: Path | None = None, registry: Registry | None = None
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
        return cls(files, raw_schema, registry)

    @property
    def requests(self) -> Mapping[str, int]:
        """Number of registry requests by outcome: ok, not_found, error."""
        return self._registry.requests if self._registry is not None else {}

    def fetch(self, keys: Iterable[SchemaKey]) -> SchemaUnavailable | None:
        """Fetch those of the keys' schemas that only the registry has, in this order, so that `get` finds them.

        Returns the failure if the registry is unavailable. After `wait_s` the rest is fetched in the background.
        """
        if self._registry is None or self._lookups is None:
            return None
        ids = [_registry_id(key) for key in keys if key.kind in _IN_REGISTRY]
        return self._lookups.run([schema_id for schema_id in ids if not self._registry.has_answer(schema_id)])

    def get(self, key: SchemaKey) -> Any:
        """Return the writer schema as parsed JSON. Makes no request.

        Raises SchemaError if the schema does not exist, and SchemaUnavailable if it must be fetched first.
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
        if key.kind == "glue":
            return self._of_glue(key.value)
        if self._registry is None:
            name = {"id": "schema id", "guid": "the schema's GUID", "apicurio": "Apicurio's schema"}[key.kind]
            raise SchemaError(
                "unknown_schema_id",
                f"The message names {name} {key.value} but no registry is configured; set schema_registry.url.",
            )
        schema_id = _registry_id(key)
        if not self._registry.has_answer(schema_id):
            raise SchemaUnavailable(f"The schema with id {schema_id} is not fetched yet.", pending=True)
        return self._registry.get(schema_id)

    def _of_glue(self, version: object) -> Any:
        schema = self._glue.get(version)  # type: ignore[call-overload]
        if schema is None:
            raise SchemaError(
                "unknown_schema_id",
                f"The message has AWS Glue's header, with the schema version {version}, which schemas.glue does not "
                "name; add the version and the file of its schema.",
            )
        return schema


def _registry_id(key: SchemaKey) -> RegistryId:
    assert isinstance(key.value, (int, uuid.UUID, ApicurioId))
    return key.value
