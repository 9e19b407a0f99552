"""Schemas of the durable records: what a record was written with, and how it is read with today's schema.

A record is in single-object encoding, so it names its writer's schema by fingerprint. It is resolved by field name: a
field that its writer did not know takes its default, a field that this release does not know is skipped.

- Records of earlier releases: their schemas are in `schemas/history`, which is part of the package.
- Records of later releases, met when an upgrade is rolled back or half done: the schema travels with the records, in
  the header `tokentrace.schema`. Schemas of the first release are known to all and never travel.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import to_parsing_canonical_form

from tokentrace.decode.framing import SINGLE_OBJECT_MARKER
from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.files import bundled_schema, fingerprint_of, released_schemas
from tokentrace.errors import UnreadableRecord
from tokentrace.state.headers import Header, Headers, header_items

#: The schemas of the durable records, by the name of their file.
RECORDS: Final = (
    "state-cell", "state-cell-wide", "state-replica", "rollup", "rollup-dimensions", "seen-chunk",
    "alert", "alert-delivery", "alert-rule", "alert-evaluator", "alert-silence",
    "budget-alert",
)  # fmt: skip
#: The release whose schemas every release knows.
FIRST_RELEASE: Final = "0.1.0"
#: Header of a record: a schema in Parsing Canonical Form, deflated (RFC 1950). May be repeated.
SCHEMA_HEADER: Final = "tokentrace.schema"
#: Marker and fingerprint, before the datum.
PREFIX_BYTES: Final = 10


class RecordSchemas:
    """Writes records with one release's schemas, and reads those of every release whose schema is known."""

    def __init__(self, current: Mapping[str, Any], released: Mapping[tuple[str, str], Any]) -> None:
        """current: name -> schema, as parsed JSON. released: (release, name) -> schema."""
        self._prefixes = {name: _prefix(schema) for name, schema in current.items()}
        # Parsed without logical types: timestamps stay the integers that they are.
        self._current = {name: parse_schema(schema) for name, schema in current.items()}
        self._first = {
            name: _prefix(schema) for (release, name), schema in released.items() if release == FIRST_RELEASE
        }
        self._names = {_full_name(schema): name for name, schema in current.items()}
        #: Prefix -> (name, writer's schema), and prefix -> header of those that travel.
        self._known: dict[bytes, tuple[str, Any]] = {}
        self._headers: dict[bytes, Header] = {}
        for (release, name), schema in released.items():
            if name in self._current:
                self._add(schema, travels=release != FIRST_RELEASE)
        for schema in current.values():
            self._add(schema, travels=True)

    def encode(self, name: str, record: Mapping[str, Any]) -> bytes:
        """Encode a record, by the name of its schema."""
        out = io.BytesIO()
        out.write(self._prefixes[name])
        fastavro.schemaless_writer(out, self._current[name], record)
        return out.getvalue()

    def prefix(self, name: str) -> bytes:
        """Return the bytes that records of this schema begin with."""
        return self._prefixes[name]

    def first_prefix(self, name: str) -> bytes:
        """Return the bytes that records of the first release's schema begin with."""
        return self._first[name]

    def name(self, value: bytes) -> str | None:
        """Return the name of a record's schema, None if the schema is not known."""
        known = self._known.get(value[:PREFIX_BYTES])
        return None if known is None else known[0]

    def decode(self, value: bytes, name: str, headers: Headers = None) -> Any:
        """Decode a record into today's schema, timestamps as microseconds. headers: of the record's message.

        Raises UnreadableRecord for whatever is not a record of this name: of another name, of a schema that is not
        known or does not resolve, cut, or with bytes that are not a datum of its schema.
        """
        known = self._known.get(value[:PREFIX_BYTES])
        if known is None and headers:
            self.learn(headers)
            known = self._known.get(value[:PREFIX_BYTES])
        if known is None:
            raise UnreadableRecord(
                f"A {name} record has an unknown schema ({value[2:PREFIX_BYTES].hex()}): it was written by a newer "
                "version of tokentrace, or not by tokentrace. Run at least the version that wrote it."
            )
        found, schema = known
        if found != name:
            raise UnreadableRecord(f"A {found} record was found where {name} records are expected.")
        current = self._current[name] if value[:PREFIX_BYTES] != self._prefixes[name] else None
        datum = io.BytesIO(value[PREFIX_BYTES:])
        try:
            record = fastavro.schemaless_reader(datum, schema, current)
        except SchemaResolutionError as error:
            raise UnreadableRecord(
                f"A {name} record of another version of tokentrace cannot be read by this one ({error})."
            ) from error
        # Damaged bytes take fastavro anywhere: EOFError, IndexError, UnicodeDecodeError, OverflowError, MemoryError.
        except Exception as error:
            raise UnreadableRecord(f"A {name} record is damaged ({error!r}).") from error
        if datum.tell() != len(value) - PREFIX_BYTES:
            raise UnreadableRecord(f"A {name} record is damaged (it goes on behind its end).")
        return record

    def learn(self, headers: Headers) -> None:
        """Remember the schemas that travel in these headers."""
        for key, value in header_items(headers):
            if key == SCHEMA_HEADER and isinstance(value, bytes):
                try:
                    self._add(json.loads(zlib.decompress(value)), travels=True)
                except Exception:
                    continue  # Not a schema: records that need one are rejected as unknown.

    def headers(self, value: bytes | None) -> list[Header]:
        """Return the headers to write a record with."""
        header = self._headers.get((value or b"")[:PREFIX_BYTES])
        return [] if header is None else [header]

    def headers_of(self, names: Iterable[str], unused: Iterable[str] = ()) -> list[Header]:
        """Return headers for all known schemas of these names that have to travel.

        unused: names of which no record has today's schema, which is then left out.
        """
        wanted, without = set(names), {self._prefixes[name] for name in unused}
        return [
            header
            for prefix, header in self._headers.items()
            if self._known[prefix][0] in wanted and prefix not in without
        ]

    def _add(self, schema: Any, *, travels: bool) -> None:
        name = self._names.get(_full_name(schema))
        prefix = _prefix(schema)
        if name is None or prefix in self._known:
            return
        if travels:
            self._headers[prefix] = SCHEMA_HEADER, zlib.compress(to_parsing_canonical_form(schema).encode(), 9)
        self._known[prefix] = name, parse_schema(schema)


@cache
def record_schemas() -> RecordSchemas:
    """Return the schemas of this release. What they learn holds for the process: a fingerprint means one schema."""
    return RecordSchemas({name: bundled_schema(name) for name in RECORDS}, released_schemas())


def encode_record(name: str, record: Mapping[str, Any]) -> bytes:
    """Encode a record of one of RECORDS."""
    return record_schemas().encode(name, record)


def decode_record(value: bytes, name: str, headers: Headers = None) -> Any:
    """Decode a record; see `RecordSchemas.decode`."""
    return record_schemas().decode(value, name, headers)


def schema_headers(value: bytes | None) -> list[Header]:
    """Return the headers to write a record of a durable topic with; none for a tombstone."""
    return record_schemas().headers(value)


def _prefix(schema: Any) -> bytes:
    return SINGLE_OBJECT_MARKER + fingerprint_of(schema)


def _full_name(schema: Any) -> str:
    name = str(schema["name"])
    return name if "." in name else f"{schema['namespace']}.{name}"
