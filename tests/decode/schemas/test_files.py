"""Schema files: folders, fingerprints, and what is said of a file that is not a schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import to_parsing_canonical_form

from tests.decode.helpers import record_schema
from tests.spanfactory import SPAN_SCHEMA
from tokentrace.decode.framing import RAW, SchemaKey
from tokentrace.decode.schemas.files import load_folder, load_schema
from tokentrace.decode.schemas.store import WriterSchemas
from tokentrace.errors import ConfigError, SchemaError
from tokentrace.model import bundled_schemas
from tokentrace.model.bundled_schemas import bundled_schema, fingerprint_of

# Fingerprints.

#: From the Avro project's share/test/data/schema-tests.txt, as signed longs; `int` is the specification's own example.
KNOWN = {
    '"null"': 7195948357588979594,
    '"boolean"': -6970731678124411036,
    '"int"': 0x7275D51A3F395C8F,
    '"long"': -3434872931120570953,
    '"float"': 5583340709985441680,
    '"double"': -8181574048448539266,
    '"bytes"': 5746618253357095269,
    '"string"': -8142146995180207161,
}


def crc_64_avro(data: bytes) -> int:
    """Straight from the specification, "Schema Fingerprints"."""
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (empty if crc & 1 else 0)
    return crc


@pytest.mark.parametrize(("schema", "fingerprint"), KNOWN.items())
def test_fingerprints_are_those_that_avro_publishes(schema: str, fingerprint: int) -> None:
    assert crc_64_avro(schema.encode()) == fingerprint % 2**64
    for spelling in (json.loads(schema), {"type": json.loads(schema)}):
        assert fingerprint_of(spelling) == (fingerprint % 2**64).to_bytes(8, "little")


def test_a_fingerprint_is_of_the_canonical_form_and_little_endian() -> None:
    canonical = to_parsing_canonical_form(SPAN_SCHEMA)
    assert '"doc"' not in canonical
    assert fingerprint_of(SPAN_SCHEMA) == crc_64_avro(canonical.encode()).to_bytes(8, "little")


def test_a_canonical_form_has_full_names_and_nothing_that_does_not_change_the_bytes() -> None:
    schema = record_schema(
        "x.y.R",
        e={"type": "enum", "name": "E", "symbols": ["A"], "default": "A"},
        g=["null", "E"],
        t={"type": "long", "logicalType": "timestamp-micros"},
        f={"type": "fixed", "size": 4, "namespace": "z", "name": "F"},
        m={"type": "map", "values": "z.F"},
    )
    by_hand = (
        '{"name":"x.y.R","type":"record","fields":['
        '{"name":"e","type":{"name":"x.y.E","type":"enum","symbols":["A"]}},'
        '{"name":"g","type":["null","x.y.E"]},'
        '{"name":"t","type":"long"},'
        '{"name":"f","type":{"name":"z.F","type":"fixed","size":4}},'
        '{"name":"m","type":{"type":"map","values":"z.F"}}]}'
    )
    assert fingerprint_of(schema) == crc_64_avro(by_hand.encode()).to_bytes(8, "little")


def test_documentation_and_layout_do_not_change_a_fingerprint() -> None:
    bare = record_schema("a.b.Span", model="string", status={"type": "enum", "name": "S", "symbols": ["ok"]})
    fields = [{**field, "doc": "words"} for field in bare["fields"]]
    documented = {"doc": "words", "fields": fields, "name": "Span", "namespace": "a.b", "type": "record"}
    assert fingerprint_of(documented) == fingerprint_of(bare)
    assert fingerprint_of({**documented, "namespace": "a.c"}) != fingerprint_of(bare)


# Files.


def save(path: Path, schema: Any) -> Path:
    path.write_text(json.dumps(schema), "utf-8")
    return path


def problems_of(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        call()
    return raised.value.problems


ONE, TWO = record_schema("One", model="string"), record_schema("Two", model="string", été="long")


def test_a_folder_gives_its_schemas_by_fingerprint(tmp_path: Path) -> None:
    save(tmp_path / "one.avsc", ONE)
    save(tmp_path / "two.avsc", TWO)
    save(tmp_path / "again.avsc", ONE)
    (tmp_path / "notes.txt").write_text("no schema")
    (tmp_path / "nested").mkdir()
    save(tmp_path / "nested" / "three.avsc", record_schema("Three"))
    assert load_folder(tmp_path, "schemas.paths") == {fingerprint_of(ONE): ONE, fingerprint_of(TWO): TWO}


def test_an_empty_folder_has_no_schemas(tmp_path: Path) -> None:
    assert load_folder(tmp_path, "schemas.paths") == {}


def test_a_path_that_is_not_a_folder_is_a_configuration_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", save(tmp_path / "file", ONE)):
        assert problems_of(lambda path=path: load_folder(path, "schemas.paths")) == [
            f"schemas.paths: {path} is not a folder"
        ]


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", " is not an Avro schema (Expecting value: line 1 column 1 (char 0))"),
    "not json": (b"{", " is not an Avro schema (Expecting property name"),
    "not utf-8": (b'"\xff"', " is not an Avro schema ('utf-8' codec can't decode"),
    "a type that is none": (b'{"type": "nonsense"}', " refers to the type nonsense, which the file does not define"),
    "a type from elsewhere": (
        json.dumps(record_schema(inner="com.example.Inner")).encode(),
        " refers to the type com.example.Inner, which the file does not define",
    ),
    "an enum without symbols": (b'{"type": "enum", "name": "E"}', " is not an Avro schema ("),
    "a record without a name": (b'{"type": "record", "fields": []}', " is not an Avro schema ("),
    "a number": (b"7", " is not an Avro schema ("),
    "null": (b"null", " is not an Avro schema ("),
    "fields that are none": (b'{"type": "record", "name": "R", "fields": [7]}', " is not an Avro schema ("),
    "a name twice": (
        json.dumps(record_schema("R", a=record_schema("X"), b=record_schema("X"))).encode(),
        " is not an Avro schema (redefined named type: X)",
    ),
    "nesting without end": (b"[" * 100_000, " is not an Avro schema ("),
}


@pytest.mark.parametrize(("content", "problem"), WRONG.values(), ids=WRONG)
def test_an_invalid_schema_file_is_reported_with_its_fault(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "wrong.avsc"
    path.write_bytes(content)
    (found,) = problems_of(lambda: load_schema(path, "schemas.raw"))
    assert found.startswith(f"schemas.raw: {path}{problem}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, folder = tmp_path / "missing.avsc", tmp_path / "folder.avsc"
    folder.mkdir()
    found = [problems_of(lambda path=path: load_schema(path, "schemas.raw")) for path in (missing, folder)]
    assert found == [
        [f"schemas.raw: {missing} cannot be read (No such file or directory)"],
        [f"schemas.raw: {folder} cannot be read (Is a directory)"],
    ]


def test_every_wrong_file_of_a_folder_is_named_at_once(tmp_path: Path) -> None:
    save(tmp_path / "b.avsc", ONE)
    for name in ("c", "a"):
        (tmp_path / f"{name}.avsc").write_text("{")
    found = problems_of(lambda: load_folder(tmp_path, "schemas.paths"))
    assert [problem.split(" is ")[0] for problem in found] == [
        f"schemas.paths: {tmp_path / name}" for name in ("a.avsc", "c.avsc")
    ]


# Schemas that ship with tokentrace.


def test_the_bundled_span_is_the_repositorys() -> None:
    assert bundled_schema("span") == SPAN_SCHEMA


def test_a_bundled_schema_is_the_callers_own() -> None:
    bundled_schema("span")["fields"].clear()
    assert bundled_schema("span") == SPAN_SCHEMA


def test_an_incomplete_installation_is_reported() -> None:
    with pytest.raises(FileNotFoundError, match="schema 'nonsense' is missing"):
        bundled_schema("nonsense")


def test_an_installed_package_reads_the_schemas_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "tokentrace"
    (package / "_schemas").mkdir(parents=True)
    save(package / "_schemas" / "only-here.avsc", ONE)
    monkeypatch.setattr(bundled_schemas, "_PACKAGE", package)
    assert bundled_schema("only-here") == ONE


# Every schema that a worker can read.


def fingerprint_key(schema: Any) -> SchemaKey:
    return SchemaKey("fingerprint", fingerprint_of(schema))


def test_spans_of_our_own_schema_are_read_without_any_configuration() -> None:
    assert WriterSchemas().get(fingerprint_key(SPAN_SCHEMA)) == SPAN_SCHEMA


def test_schemas_come_from_every_folder_and_the_raw_file(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, schema in zip(folders, (ONE, TWO), strict=True):
        folder.mkdir()
        save(folder / "schema.avsc", schema)
    raw = save(tmp_path / "raw.json", record_schema("Raw", model="string"))
    schemas = WriterSchemas.load(folders, raw)
    keys = [fingerprint_key(ONE), fingerprint_key(TWO), fingerprint_key(SPAN_SCHEMA), RAW]
    assert [schemas.get(key) for key in keys] == [ONE, TWO, SPAN_SCHEMA, record_schema("Raw", model="string")]
    assert schemas.requests == {}


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "wrong.avsc").write_text("{")
    missing, raw = tmp_path / "missing", tmp_path / "raw.avsc"
    found = problems_of(lambda: WriterSchemas.load([folder, missing], raw))
    assert [problem.partition(" is not an Avro schema")[0] for problem in found] == [
        f"schemas.paths: {folder / 'wrong.avsc'}",
        f"schemas.paths: {missing} is not a folder",
        f"schemas.raw: {raw} cannot be read (No such file or directory)",
    ]


@pytest.mark.parametrize(
    ("key", "reason", "error"),
    [
        (
            SchemaKey("fingerprint", bytes(range(8))),
            "unknown_fingerprint",
            "No schema file has the fingerprint 0001020304050607; add the writer's schema to schemas.paths.",
        ),
        (
            SchemaKey("id", 7),
            "unknown_schema_id",
            "The message names schema id 7 but no registry is configured; set schema_registry.url.",
        ),
        (
            RAW,
            "schema_unusable",
            "kafka.framing is raw but no schema is configured; set schemas.raw.",
        ),
    ],
)
def test_a_missing_schema_is_an_error_with_advice(key: SchemaKey, reason: str, error: str) -> None:
    with pytest.raises(SchemaError) as raised:
        WriterSchemas().get(key)
    assert (raised.value.reason, str(raised.value)) == (reason, error)
