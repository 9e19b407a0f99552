"""Fastavro decoder: the values of a span's fields, and the messages that are rejected."""

from __future__ import annotations

import math
import random
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.utils import generate_one
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.helpers import ABSENT, decode, expected, only, reason, record_schema, string, write, zigzag
from tests.spanfactory import SPAN_SCHEMA, datum, random_span, span, unit_span
from tokentrace.decode.fastavro_decoder import FastavroDecoder
from tokentrace.model.arrays import PADDING
from tokentrace.model.messages import Reject
from tokentrace.model.spans import SpanColumns

NULL_STRING = ["null", "string"]
MAP = {"type": "map", "values": ["null", "boolean", "long", "double", "string"]}
ENUM = {"type": "enum", "name": "E", "symbols": ["ok", "error"]}


# Values of the fields.


def test_every_column_holds_what_the_writer_wrote() -> None:
    rng = random.Random(1)
    records = [random_span(rng) if number % 2 else unit_span(rng) for number in range(300)]
    assert decode(SPAN_SCHEMA, *map(datum, records)) == ([expected(record) for record in records], [])


def test_a_schema_without_optional_fields_gives_their_defaults() -> None:
    schema = record_schema(model="string", prompt_tokens="long")
    data = write(schema, {"model": "m", "prompt_tokens": 7})
    assert only(schema, data) == {**ABSENT, "model": b"m", "prompt_tokens": 7}


def test_fields_may_come_in_any_order() -> None:
    rng = random.Random(2)
    for _ in range(20):
        schema = {**SPAN_SCHEMA, "fields": rng.sample(SPAN_SCHEMA["fields"], len(SPAN_SCHEMA["fields"]))}
        record = unit_span(rng)
        assert only(schema, write(schema, record)) == expected(record)


@pytest.mark.parametrize("values", ["int", "long", "float", "double", ["null", "long", "double"]], ids=str)
@pytest.mark.parametrize("optional", [False, True])
def test_units_are_read_from_a_map_of_any_numbers(values: Any, optional: bool) -> None:
    usage = {"type": "map", "values": values}
    schema = record_schema(model="string", prompt_tokens="int", usage=["null", usage] if optional else usage)
    maps = [
        {"page": 2, "x" * 20: 7, "text_cache_write_5m": 3},
        {},
        {"second": 4, "prompt": 9},
        {"annotated_page": 1},
    ] * 9
    records = [{"model": "m", "prompt_tokens": 1, "usage": units} for units in maps]
    spans, rejects = decode(schema, *[write(schema, record) for record in records])
    counted = [{"page": 2, "text_cache_write_5m": 3}, {}, {"second": 4000}, {"annotated_page": 1}] * 9
    assert rejects == []
    assert spans == [{**ABSENT, "model": b"m", "prompt_tokens": 1, **units} for units in counted]


TIER = {"type": "enum", "name": "Tier", "symbols": ["default", "flex", "batch"]}


@pytest.mark.parametrize(
    "type_",
    ["string", "bytes", TIER, ["null", "string"], ["string", "null"], ["null", "bytes", TIER], ["null", TIER]],
    ids=str,
)
def test_modifiers_are_read_from_any_text(type_: Any) -> None:
    schema = record_schema(model="string", service_tier=type_, prompt_tokens="int", speed=["null", "string"])
    texts = ["batch", "flex", "default"] * 12
    binary = type_ == "bytes"
    records = [
        {"model": "m", "prompt_tokens": 1, "service_tier": text.encode() if binary else text, "speed": speed}
        for text, speed in zip(texts, [None, "", "fast"] * 12, strict=True)
    ]
    if isinstance(type_, list):
        records[5]["service_tier"] = None
        texts[5] = ""
    spans, rejects = decode(schema, *[write(schema, record) for record in records])
    assert rejects == []
    assert spans == [
        {**ABSENT, "model": b"m", "prompt_tokens": 1}
        | ({"service_tier": text.encode()} if text else {})
        | ({"speed": b"fast"} if record["speed"] else {})
        for text, record in zip(texts, records, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "type_", "value"),
    [
        ("usage", "string", "x"),
        ("usage", {"type": "map", "values": "string"}, {"page": "x"}),
        ("usage", record_schema("Usage", page="long"), {"page": 1}),
        ("web_searches", "string", "x"),
        ("service_tier", "long", 7),
        ("speed", ["null", "double"], 1.5),
        ("inference_region", ["null", "string", "long"], "us"),
        ("prompt_tokens_include_cache", ["null", "long"], 7),
        ("cache_write_tokens", ["null", "long", "string"], 7),
    ],
    ids=str,
)
def test_fields_that_had_other_types_before_the_span_had_them_are_skipped(name: str, type_: Any, value: Any) -> None:
    schema = record_schema(model="string", prompt_tokens="long", **{name: type_})
    data = write(schema, {"model": "m", "prompt_tokens": 7, name: value})
    assert only(schema, data) == {**ABSENT, "model": b"m", "prompt_tokens": 7}


EXTRA_TYPES: dict[str, tuple[Any, Any]] = {
    "null": ("null", None),
    "boolean": ("boolean", True),
    "int": ("int", -70000),
    "long": ("long", 2**62),
    "float": ("float", 1.5),
    "double": ("double", math.inf),
    "bytes": ("bytes", b"\xff\x00"),
    "string": ("string", "wörd"),
    "fixed": ({"type": "fixed", "name": "Hash", "size": 5}, b"12345"),
    "enum": ({"type": "enum", "name": "Colour", "symbols": ["red", "blue"]}, "blue"),
    "array": ({"type": "array", "items": "string"}, ["a", "", "ccc"]),
    "empty array": ({"type": "array", "items": "string"}, []),
    "array of nulls": ({"type": "array", "items": "null"}, [None] * 5),
    "map": ({"type": "map", "values": {"type": "array", "items": "int"}}, {"x": [1, 2], "y": []}),
    "union": (["null", "double", {"type": "map", "values": "long"}], {"k": 1}),
    "record": (record_schema("Inner", a="int", b=NULL_STRING), {"a": 1, "b": "x"}),
    "recursive": (
        record_schema("Node", value="int", next=["null", "Node"]),
        {"value": 1, "next": {"value": 2, "next": None}},
    ),
    "decimal": ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, b"\x01\x00"),
    "date": ({"type": "int", "logicalType": "date"}, 20000),
    "uuid": ({"type": "string", "logicalType": "uuid"}, "not a uuid"),
    "unknown logical type": ({"type": "long", "logicalType": "moon-phase"}, 3),
}  # fmt: skip


@pytest.mark.parametrize(("type_", "value"), EXTRA_TYPES.values(), ids=EXTRA_TYPES)
def test_unknown_fields_of_any_type_are_skipped(type_: Any, value: Any) -> None:
    schema = record_schema(model="string", extra=type_, prompt_tokens="long")
    plain = record_schema(model="string", extra=_without_logical_type(type_), prompt_tokens="long")
    data = write(plain, {"model": "m", "extra": value, "prompt_tokens": 3})
    assert only(schema, data) == {**ABSENT, "model": b"m", "prompt_tokens": 3}


def _without_logical_type(type_: Any) -> Any:
    """For writing raw values, of which fastavro would otherwise ask for dates and decimals."""
    return {k: v for k, v in type_.items() if k != "logicalType"} if isinstance(type_, dict) else type_


def test_a_named_type_may_be_used_again() -> None:
    inner = record_schema("Inner", a="int", b="string")
    schema = record_schema(x=inner, model="string", y=["null", "Inner"], z={"type": "array", "items": "Inner"})
    one = {"a": 1, "b": "one"}
    data = write(schema, {"x": one, "model": "m", "y": one, "z": [one, one]})
    assert only(schema, data) == {**ABSENT, "model": b"m"}


@pytest.mark.parametrize(
    ("field", "type_", "value", "column", "want"),
    [
        ("comp_tokens", "long", 9, "completion_tokens", 9),
        ("cost", "double", 0.25, "cost_usd", 0.25),
        ("cost", ["double", "null"], 0.25, "cost_usd", 0.25),
    ],
)
def test_a_field_may_have_its_alias(field: str, type_: Any, value: Any, column: str, want: Any) -> None:
    schema = record_schema(**{field: type_})
    assert only(schema, write(schema, {field: value})) == {**ABSENT, column: want}


def test_a_field_name_has_precedence_over_an_alias() -> None:
    for order in (("cost", "cost_usd"), ("cost_usd", "cost")):
        schema = record_schema(**dict.fromkeys(order, "double"))
        assert only(schema, write(schema, {"cost": 9.0, "cost_usd": 0.5})) == {**ABSENT, "cost_usd": 0.5}


@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens", "total_tokens", "cached_prompt_tokens"])
@pytest.mark.parametrize("type_", ["int", "long", ["null", "int"], ["long", "null"], ["string", "null", "long"]])
@pytest.mark.parametrize("value", [0, 1, -1, 63, 64, -65, 2**31 - 1, -(2**31)])
def test_a_count_may_be_an_int_or_a_long(field: str, type_: Any, value: int) -> None:
    schema = record_schema(**{field: type_})
    assert only(schema, write(schema, {field: value})) == {**ABSENT, field: value}


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63), 2**53 + 1, 2**55, 2**56, -(2**62)])
def test_a_long_keeps_its_64_bits(value: int) -> None:
    schema = record_schema(prompt_tokens="long")
    assert only(schema, zigzag(value)) == {**ABSENT, "prompt_tokens": value}


def test_an_int_beyond_32_bits_is_accepted() -> None:
    assert only(record_schema(prompt_tokens="int"), zigzag(2**40)) == {**ABSENT, "prompt_tokens": 2**40}


@pytest.mark.parametrize("field", ["cost_usd", "latency_ms", "ttft_ms"])
@pytest.mark.parametrize(
    ("type_", "value", "want"),
    [
        ("int", 3, 3.0),
        ("long", 2**53 + 1, float(2**53 + 1)),
        ("float", 0.5, 0.5),
        ("float", 0.1, 0.10000000149011612),
        ("double", 0.1, 0.1),
        ("double", -0.0, -0.0),
        ("double", math.inf, math.inf),
        (["null", "double"], None, None),
        (["float", "null", "long"], 7, 7.0),
    ],
)
def test_a_real_number_may_be_of_any_numeric_type(field: str, type_: Any, value: Any, want: float | None) -> None:
    schema = record_schema(**{field: type_})
    assert only(schema, write(schema, {field: value})) == {**ABSENT, field: want}


def test_a_nan_stays_a_nan() -> None:
    schema = record_schema(cost_usd="double")
    assert math.isnan(only(schema, write(schema, {"cost_usd": math.nan}))["cost_usd"])


@pytest.mark.parametrize("field", ["model", "provider", "caller", "span_id"])
@pytest.mark.parametrize(
    ("type_", "value", "want"),
    [
        ("string", "modèle", "modèle".encode()),
        ("bytes", b"gpt", b"gpt"),
        ({"type": "enum", "name": "E", "symbols": ["a", "bc"]}, "bc", b"bc"),
        (NULL_STRING, None, b""),
        (NULL_STRING, "x", b"x"),
        (["long", "bytes", "null"], b"x", b"x"),
        ("string", "", b""),
    ],
)
def test_a_string_may_be_bytes_or_an_enum_and_null_is_empty(field: str, type_: Any, value: Any, want: bytes) -> None:
    schema = record_schema(**{field: type_})
    assert only(schema, write(schema, {field: value})) == {**ABSENT, field: want}


ORDERED_OTHERWISE = {"type": "enum", "name": "S", "symbols": ["timeout", "cancelled", "ok", "error"]}


@pytest.mark.parametrize(
    ("type_", "value", "want"),
    [
        *((ORDERED_OTHERWISE, word, word) for word in ("ok", "error", "timeout")),
        (ORDERED_OTHERWISE, "cancelled", "unknown"),
        ("string", "timeout", "timeout"),
        ("string", "OK", "unknown"),
        ("string", "", "unknown"),
        (["null", ORDERED_OTHERWISE], None, "ok"),
        (["null", ORDERED_OTHERWISE], "error", "error"),
        (["string", "null"], "error", "error"),
    ],
)
def test_status_is_read_by_its_symbol_from_any_type(type_: Any, value: Any, want: str) -> None:
    schema = record_schema(status=type_)
    assert only(schema, write(schema, {"status": value})) == {**ABSENT, "status": want}


def test_a_status_that_is_not_utf8_is_unknown() -> None:
    assert only(record_schema(status="string"), string(b"\xff\xfe")) == {**ABSENT, "status": "unknown"}


@pytest.mark.parametrize("prefix", ["timestamp", "local-timestamp"])
@pytest.mark.parametrize(
    ("unit", "value", "want_us"),
    [
        ("millis", 1_790_000_000_123, 1_790_000_000_123_000),
        ("micros", 1_790_000_000_123_456, 1_790_000_000_123_456),
        ("nanos", 1_790_000_000_123_456_789, 1_790_000_000_123_456),
        ("nanos", -1, -1),
        ("millis", 2**62, 2**63 - 1),
        ("millis", -(2**62), -(2**63)),
    ],
)
def test_timestamps_of_any_unit_are_converted_to_microseconds(prefix: str, unit: str, value: int, want_us: int) -> None:
    stamp = {"type": "long", "logicalType": f"{prefix}-{unit}"}
    schema = record_schema(started_at=stamp, ended_at=["null", stamp])
    data = zigzag(value) + zigzag(1) + zigzag(value)
    assert only(schema, data) == {**ABSENT, "started_at_us": want_us, "ended_at_us": want_us}


def test_a_timestamp_without_a_unit_is_in_microseconds() -> None:
    assert only(record_schema(ended_at="long"), zigzag(5)) == {**ABSENT, "ended_at_us": 5}


ANY = ["null", "boolean", "int", "long", "float", "double", "string", "bytes", {"type": "array", "items": "int"}]


@pytest.mark.parametrize(
    ("values", "value", "want"),
    [
        (ANY, 0.75, 0.75),
        (ANY, 1, 1.0),
        ("float", 0.1, 0.10000000149011612),
        ("long", -5, -5.0),
        (["string", "double"], 0.5, 0.5),
        (ANY, None, None),
        ("null", None, None),
    ],
)
def test_the_score_may_be_any_number_or_null(values: Any, value: Any, want: float | None) -> None:
    schema = record_schema(attributes={"type": "map", "values": values})
    data = write(schema, {"attributes": {"eval.score": value}})
    assert only(schema, data) == {**ABSENT, "eval_score": want}


@pytest.mark.parametrize("value", ["0.5", True, False, b"1", [1], []])
def test_a_score_that_is_not_a_number_is_nan(value: Any) -> None:
    schema = record_schema(attributes={"type": "map", "values": ANY})
    score = only(schema, write(schema, {"attributes": {"eval.score": value}}))["eval_score"]
    assert score is not None
    assert math.isnan(score)


def test_the_last_value_of_a_repeated_attribute_applies() -> None:
    schema = record_schema(attributes={"type": "map", "values": "long"})
    entries = [string("eval.score") + zigzag(value) for value in (1, 0)]
    one_block = zigzag(2) + entries[0] + entries[1] + zigzag(0)
    two_blocks = zigzag(1) + entries[0] + zigzag(1) + entries[1] + zigzag(0)
    for data in (one_block, two_blocks):
        assert only(schema, data) == {**ABSENT, "eval_score": 0.0}


@pytest.mark.parametrize(
    ("type_", "value"),
    [("string", "eval.score"), (record_schema("A", score="double"), {"score": 1.0}), (["null", MAP], None)],
)
def test_attributes_that_are_not_a_map_are_skipped(type_: Any, value: Any) -> None:
    schema = record_schema(attributes=type_, model="string")
    assert only(schema, write(schema, {"attributes": value, "model": "m"})) == {**ABSENT, "model": b"m"}


def test_previous_values_of_a_row_are_overwritten() -> None:
    schema = {**SPAN_SCHEMA, "fields": [{**field} for field in SPAN_SCHEMA["fields"]]}
    full = random_span(random.Random(3)) | {
        "cost_usd": 1.0, "latency_ms": 2.0, "ttft_ms": 3.0, "total_tokens": 4, "cached_prompt_tokens": 5,
        "reasoning_tokens": 6, "status": "error", "caller": "c", "attributes": {"eval.score": 1.0},
    }  # fmt: skip
    datums = [datum(full), datum(span())]
    buffer = np.frombuffer(b"".join(datums) + bytes(PADDING), np.uint8)
    columns, decoder = SpanColumns(1, buffer), FastavroDecoder(schema)
    ends = np.cumsum([len(datum) for datum in datums])
    for start, end in ((0, ends[0]), (ends[0], ends[1])):
        assert decoder.decode_into(columns, np.array([0]), np.array([start]), np.array([end])) == []
    from tests.decode.helpers import spans_of

    assert spans_of(columns.select(np.array([True]))) == [expected(span())]
    assert int(columns.caller.offset[0]) < len(buffer)


# Large, but valid.


def test_a_string_of_a_mebibyte_is_decoded() -> None:
    text = "é" * (1 << 19)
    record = span(model=text, error=text)
    assert only(SPAN_SCHEMA, datum(record)) == expected(record)


def test_ten_thousand_attributes_are_decoded() -> None:
    record = span(attributes={f"key{number}": number for number in range(10_000)} | {"eval.score": 0.5})
    assert only(SPAN_SCHEMA, datum(record)) == expected(record)


def test_blocks_that_declare_their_size_are_read() -> None:
    schema = record_schema(tags={"type": "array", "items": "string"}, attributes=MAP, model="string")
    tags = string("a") + string("bc")
    score = string("eval.score") + zigzag(3) + b"\0\0\0\0\0\0\xe0\x3f"
    blocks = [zigzag(-2) + zigzag(len(tags)) + tags + zigzag(1) + string("d") + zigzag(0)]
    blocks.append(zigzag(-1) + zigzag(len(score)) + score + zigzag(0))
    assert only(schema, b"".join(blocks) + string("m")) == {**ABSENT, "eval_score": 0.5, "model": b"m"}


# Rejected values.


@pytest.mark.parametrize("bad", [b"\xff", b"gpt\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
@pytest.mark.parametrize("field", ["model", "provider", "caller"])
@pytest.mark.parametrize("type_", ["string", "bytes", NULL_STRING])
def test_a_label_that_is_not_utf8_is_rejected(bad: bytes, field: str, type_: Any) -> None:
    data = (zigzag(1) if isinstance(type_, list) else b"") + string(bad)
    spans, rejects = decode(record_schema(**{field: type_}), data)
    assert (spans, rejects) == ([], [Reject(0, "invalid_utf8", f"Field {field!r} is not valid UTF-8.")])


def test_invalid_utf8_outside_labels_is_accepted() -> None:
    bad = string(b"\xff\xfe")
    schema = record_schema(name="string", error=NULL_STRING, span_id="string", attributes=MAP, model="string")
    entries = bad + zigzag(4) + bad + string("eval.score") + zigzag(2) + zigzag(1)
    data = bad + zigzag(1) + bad + bad + zigzag(2) + entries + zigzag(0) + string("m")
    assert only(schema, data) == {**ABSENT, "span_id": b"\xff\xfe", "eval_score": 1.0, "model": b"m"}


@pytest.mark.parametrize(
    ("field", "type_", "data", "holds", "takes"),
    [
        ("prompt_tokens", ["long", "string"], zigzag(1) + string("12"), "string", "prompt_tokens takes int or long"),
        ("prompt_tokens", ["long", "double"], zigzag(1) + bytes(8), "double", "prompt_tokens takes int or long"),
        ("prompt_tokens", ["long", "boolean"], zigzag(1) + b"\1", "boolean", "prompt_tokens takes int or long"),
        ("started_at", ["long", "float"], zigzag(1) + bytes(4), "float", "started_at_us takes int or long"),
        (
            "cost",
            ["double", "boolean"],
            zigzag(1) + b"\1",
            "boolean",
            "cost_usd takes decimal or double or float or int or long",
        ),
        ("model", ["string", "long"], zigzag(1) + zigzag(4), "long", "model takes bytes or enum or string"),
        (
            "model",
            ["string", {"type": "fixed", "name": "F", "size": 2}],
            zigzag(1) + b"ab",
            "fixed",
            "model takes bytes or enum or string",
        ),
        ("status", ["string", MAP], zigzag(1) + zigzag(0), "map", "status takes bytes or enum or string"),
    ],
)
def test_a_branch_of_an_unsuitable_type_is_a_type_mismatch(
    field: str, type_: Any, data: bytes, holds: str, takes: str
) -> None:
    error = f"Field {field!r} holds a value of type {holds}; {takes}."
    assert decode(record_schema(**{field: type_}), data) == ([], [Reject(0, "type_mismatch", error)])


def test_the_first_of_several_faults_is_the_reason() -> None:
    schema = record_schema(model="string", prompt_tokens=["long", "string"])
    wrong = string(b"\xff") + zigzag(1) + string("12")
    assert reason(schema, wrong) == "type_mismatch"
    assert reason(schema, wrong + b"\0") == "malformed"


SCHEMAS = [
    SPAN_SCHEMA,
    record_schema("Node", model="string", next=["null", "Node"], kids={"type": "array", "items": "Node"}),
    record_schema(
        a={"type": "array", "items": "null"}, b={"type": "map", "values": ANY}, cost=["int", "float", "null"]
    ),
    record_schema(model=ENUM, started_at={"type": "long", "logicalType": "timestamp-nanos"}, attributes=["null", MAP]),
]
WIRE = st.lists(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1).map(zigzag), st.integers(-3, 6).map(zigzag), st.text(max_size=5).map(string),
        st.binary(max_size=9),
    ),
    max_size=25,
).map(b"".join)  # fmt: skip


@given(st.sampled_from(SCHEMAS), st.lists(WIRE, min_size=1, max_size=4))
def test_any_bytes_give_a_span_or_a_reject(schema: Any, datums: list[bytes]) -> None:
    spans, rejects = decode(schema, *datums)
    assert len(spans) + len(rejects) == len(datums)
    assert {reject.reason for reject in rejects} <= {"malformed", "type_mismatch", "invalid_utf8"}


@given(st.sampled_from([schema for schema in SCHEMAS if schema["name"] != "Node"]), st.integers(0, 2**32))
def test_everything_that_fastavro_writes_is_read(schema: Any, seed: int) -> None:
    random.seed(seed)
    spans, rejects = decode(schema, write(schema, generate_one(fastavro.parse_schema(schema))))
    assert (len(spans), rejects) == (1, [])
