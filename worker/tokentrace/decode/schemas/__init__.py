"""Writer schemas: schema files and a Schema Registry behind one lookup."""

from .store import (
    Registry,
    RegistrySettings,
    WriterSchemas,
    bundled_schema,
    fingerprint_of,
    load_folder,
    load_schema,
)

__all__ = [
    "Registry",
    "RegistrySettings",
    "WriterSchemas",
    "bundled_schema",
    "fingerprint_of",
    "load_folder",
    "load_schema",
]
