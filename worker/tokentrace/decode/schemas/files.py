"""Schema files: folders of `.avsc` files, schema fingerprints, and the schemas that ship with tokentrace."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import SchemaParseException, UnknownType, fingerprint, to_parsing_canonical_form

from tokentrace.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent.parent


def bundled_schema(name: str) -> Any:
    """Return a copy of a schema that ships with tokentrace, as parsed JSON: `span` is `schemas/span.avsc`."""
    return copy.deepcopy(_bundled(name))


def released_schemas() -> dict[tuple[str, str], Any]:
    """(release, name) -> schema, of the bundled schemas as each release had them: `schemas/history`."""
    paths = sorted((_folder() / "history").glob("*/*.avsc"))
    return {(path.parent.name, path.stem): json.loads(path.read_text("utf-8")) for path in paths}


@cache
def _bundled(name: str) -> Any:
    path = _folder() / f"{name}.avsc"
    if not path.is_file():
        raise FileNotFoundError(f"The installation of tokentrace is incomplete: schema {name!r} is missing.")
    return json.loads(path.read_text("utf-8"))


def _folder() -> Path:
    """The bundled schemas: inside the package of an installed wheel, at the top of a source tree."""
    inside = _PACKAGE / "_schemas"
    return inside if inside.is_dir() else _PACKAGE.parent.parent / "schemas"


def fingerprint_of(schema: Any) -> bytes:
    """Return the CRC-64-AVRO of the schema's Parsing Canonical Form: 8 bytes, little-endian as in a message."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


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
