"""Writer schemas from schema files and a Schema Registry, with one lookup for both."""

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
