"""Bundled schemas: the Avro schemas of this release and of earlier ones, and their fingerprints."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastavro.schema import fingerprint, to_parsing_canonical_form

#: First bytes of Avro's single-object encoding; the fingerprint of the schema follows.
SINGLE_OBJECT_MARKER: Final = b"\xc3\x01"

_PACKAGE = Path(__file__).parent.parent


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


def single_object_header(schema: Any) -> bytes:
    """Return the first 10 bytes of each message of this schema in single-object encoding."""
    return SINGLE_OBJECT_MARKER + fingerprint_of(schema)
