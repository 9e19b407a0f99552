"""Schema files: folders of `.avsc` files of users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, UnknownType

from tokentrace.errors import ConfigError
from tokentrace.model.bundled_schemas import bundled_schema, fingerprint_of, released_schemas

__all__ = ["bundled_schema", "fingerprint_of", "load_folder", "load_schema", "released_schemas"]


def load_schema(path: Path, key: str) -> Any:
    """Load one schema file as parsed JSON. key: the configuration key that names it, for the ConfigError."""
    try:
        schema = json.loads(path.read_text("utf-8"))
        fastavro.parse_schema(schema)
    except OSError as error:
        raise ConfigError([f"{key}: {path} cannot be read ({error.strerror})"]) from error
    except UnknownType as error:
        name = error.name["type"] if isinstance(error.name, dict) else error.name
        raise ConfigError([f"{key}: {path} refers to the type {name}, which the file does not define"]) from error
    except (ValueError, SchemaParseException, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError([f"{key}: {path} is not an Avro schema ({error})"]) from error
    return schema


def load_folder(folder: Path, key: str) -> dict[bytes, Any]:
    """Load every `.avsc` file of a folder: fingerprint -> schema. Raises ConfigError with every invalid file."""
    if not folder.is_dir():
        raise ConfigError([f"{key}: {folder} is not a folder"])
    schemas: dict[bytes, Any] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.avsc")):
        try:
            schema = load_schema(path, key)
        except ConfigError as error:
            problems += error.problems
        else:
            schemas[fingerprint_of(schema)] = schema
    if problems:
        raise ConfigError(problems)
    return schemas
