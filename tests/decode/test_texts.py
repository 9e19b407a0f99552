"""Texts of dimensions: which values of a span are read, and as what."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.decode.differential import run, strings_of
from tests.decode.helpers import record_schema, write
from tokentrace.decode import SchemaDecoder
from tokentrace.decode.columnar.decoder import ColumnarDecoder
from tokentrace.decode.fastavro_decoder import FastavroDecoder
from tokentrace.decode.resolve import resolve
from tokentrace.model.spans import SpanColumns

VALUE = ["null", "boolean", "long", "double", "string", "bytes", "float", {"type": "map", "values": "int"}]


def found(
    schema: Any, datums: list[bytes], texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> list[list[bytes]]:
    """The texts by source, read in columns; fastavro has to agree, and to be left nothing."""
    resolution = resolve(schema, texts=texts)
    reference = FastavroDecoder(schema, resolution)

    class Never(FastavroDecoder):
        def decode_into(self, columns: SpanColumns, rows: Any, start: Any, end: Any) -> Any:
            raise AssertionError(f"left to fastavro: {rows}")

    columnar = ColumnarDecoder.compile(schema, resolution, Never(schema, resolution), min_rows=0, sparse_rows=0)
    assert columnar is not None
    monkeypatch.setattr("tests.decode.differential.TEXTS", texts)
    batches = []
    decoders: list[SchemaDecoder] = [columnar, reference]
    for decoder in decoders:
        batch, rejects = run(decoder, datums)
        assert rejects == []
        batches.append([strings_of(batch, batch.texts[source]) for source in texts])
    assert batches[0] == batches[1]
    return batches[0]


def test_a_key_is_read_and_no_other_that_is_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = record_schema(model="string", attributes={"type": "map", "values": VALUE})
    keys = [
        "team",
        "tea",
        "team2",
        "Team",
        "team\0",
        "a-key-of-ten",
        "a-key-of-tem",
        "a-key-of-t",
        "eightkey",
        "eightke",
        "",
    ]
    texts = tuple(f"attributes.{key}" for key in ("team", "a-key-of-ten", "eightkey", ""))
    orders = [keys, keys[::-1], keys[3:] + keys[:3], ["team"], [], ["team2"], ["eightkey", "team", "a-key-of-ten"]]
    datums = [write(schema, {"model": "m", "attributes": {key: f"<{key}>" for key in order}}) for order in orders * 3]
    wanted = [
        [f"<{source.removeprefix('attributes.')}>".encode() if source[11:] in order else b"" for order in orders * 3]
        for source in texts
    ]
    assert found(schema, datums, texts, monkeypatch) == wanted


def test_values_of_every_type_have_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[tuple[Any, bytes]] = [
        ("é", "é".encode()), (b"\xff", b"\xff"), ("", b""), (True, b"true"), (False, b"false"), (42, b"42"),
        (-(2**63), b"-9223372036854775808"), (0.5, b"0.5"), (float("nan"), b"nan"), (-0.0, b"-0.0"), (None, b""),
        ({"x": 1}, b""),
    ]  # fmt: skip
    schema = record_schema(model="string", attributes={"type": "map", "values": VALUE}, team=VALUE)
    datums = [write(schema, {"model": "m", "attributes": {"a": value}, "team": value}) for value, _ in values]
    texts = [text for _, text in values]
    assert found(schema, datums, ("attributes.a", "span.team"), monkeypatch) == [texts, texts]


def test_fields_of_fixed_and_enum_types_have_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    enum = {"type": "enum", "name": "E", "symbols": ["red", "green"]}
    schema = record_schema(model="string", colour=enum, code={"type": "fixed", "name": "F", "size": 3})
    datums = [write(schema, {"model": "m", "colour": colour, "code": b"abc"}) for colour in ("red", "green", "red")]
    sources = ("span.colour", "span.code", "span.model", "span.absent", "attributes.a")
    assert found(schema, datums, sources, monkeypatch) == [
        [b"red", b"green", b"red"], [b"abc"] * 3, [b"m"] * 3, [b""] * 3, [b""] * 3,
    ]  # fmt: skip


def test_columns_without_texts_have_none() -> None:
    assert SpanColumns(3, np.zeros(16, np.uint8)).texts == {}


def test_writers_that_leave_out_different_keys_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = record_schema(model="string", attributes={"type": "map", "values": VALUE})
    rng = random.Random(5)
    values = ["text", "a text of more bytes than one word has", "", 7, -0.25, True, None, b"\xfe", {"x": 1}]
    keys = ["team", "eval.score", "feature", "agent", "other", "tier"]
    maps = [{key: rng.choice(values) for key in keys if rng.random() < 0.7} for _ in range(300)]
    chosen = ["team", "feature", "agent", "tier"]
    texts = tuple(f"attributes.{key}" for key in chosen)
    wanted = [[_text(attributes.get(key)) for attributes in maps] for key in chosen]
    datums = [write(schema, {"model": "m", "attributes": attributes}) for attributes in maps]
    assert found(schema, datums, texts, monkeypatch) == wanted


def _text(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, bytes):
        return value
    return b"" if value is None or isinstance(value, dict) else str(value).encode()
