"""Schema keys: the names of writer schemas in messages."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple


class ApicurioId(NamedTuple):
    """An id of eight bytes of Apicurio Registry. of: what it numbers, empty where only the registry's settings tell."""

    value: int
    of: Literal["", "content", "global"] = ""

    def __str__(self) -> str:
        return f"{self.of} id {self.value}".lstrip()


#: Name of a schema in a registry: Confluent's id of four bytes, its GUID, or Apicurio's id.
RegistryId = int | uuid.UUID | ApicurioId


@dataclass(frozen=True, slots=True)
class SchemaKey:
    """Name of a writer schema in a message.

    value: the id for the registry, the UUID of Glue's schema version, the fingerprint (8 bytes), or "" for raw.
    """

    kind: Literal["id", "guid", "apicurio", "glue", "fingerprint", "raw"]
    value: RegistryId | bytes | str = ""

    def __str__(self) -> str:
        if isinstance(self.value, bytes):
            return f"fingerprint:{self.value.hex()}"
        return self.kind if self.kind == "raw" else f"{self.kind}:{self.value}"


RAW: Final = SchemaKey("raw")
