"""Datum check: bytes that no writer produces are malformed."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.decode.helpers import ABSENT, decode, expected, only, reason, record_schema, string, zigzag
from tests.spanfactory import SPAN_SCHEMA, datum, random_span, span
from tokentrace.decode.datum_check import MAX_EMPTY_ITEMS
from tokentrace.model.messages import Reject

NULL_STRING = ["null", "string"]
MAP = {"type": "map", "values": ["null", "boolean", "long", "double", "string"]}


def test_a_message_cut_anywhere_is_malformed() -> None:
    record = random_span(random.Random(4)) | {"attributes": {"eval.score": 0.5, "user": "u", "n": None}, "error": "e"}
    data = datum(record)
    spans, rejects = decode(SPAN_SCHEMA, *(data[:cut] for cut in range(len(data))))
    assert spans == []
    assert [(reject.row, reject.reason) for reject in rejects] == [(cut, "malformed") for cut in range(len(data))]


def test_a_truncated_message_costs_one_reject_and_no_neighbour() -> None:
    records = [random_span(random.Random(seed)) for seed in range(3)]
    datums = [datum(record) for record in records]
    spans, rejects = decode(SPAN_SCHEMA, datums[0], datums[1][:-1], datums[2])
    assert spans == [expected(records[0]), expected(records[2])]
    error = "The bytes are not a datum of their writer schema: the datum ends in the middle of a value."
    assert rejects == [Reject(1, "malformed", error)]


@pytest.mark.parametrize("extra", [b"\0", b"\0\0", b"anything"])
def test_bytes_after_the_end_are_malformed(extra: bytes) -> None:
    spans, rejects = decode(SPAN_SCHEMA, datum(span()) + extra)
    error = f"The bytes are not a datum of their writer schema: {len(extra)} bytes follow the end of the datum."
    assert (spans, rejects) == ([], [Reject(0, "malformed", error)])


E = {"type": "enum", "name": "E", "symbols": ["ok", "error"]}
ARRAY = {"type": "array", "items": "int"}

INVALID: dict[str, tuple[Any, bytes]] = {
    "negative string length": ("string", zigzag(-1)),
    "negative bytes length": ("bytes", zigzag(-3) + b"abc"),
    "string length of 2^60": ("string", zigzag(2**60) + b"abc"),
    "string length of 2^63-1": ("string", zigzag(2**63 - 1) + b"abc"),
    "string length of -2^63": ("string", zigzag(-(2**63)) + b"abc"),
    "union index -1": (NULL_STRING, zigzag(-1) + string("m")),
    "union index 2": (NULL_STRING, zigzag(2)),
    "enum index -1": (E, zigzag(-1)),
    "enum index 2": (E, zigzag(2)),
    "long of 65 bits": ("long", zigzag(2**63)),
    "long of 70 bits": ("long", b"\xff" * 9 + b"\x7f"),
    "long of 11 bytes": ("long", b"\x80" * 10 + b"\0"),
    "long without end": ("long", b"\x80" * 40),
    "int of 70 bits": ("int", b"\xff" * 9 + b"\x7f"),
    "more items than bytes": (ARRAY, zigzag(2**40) + zigzag(0)),
    "-2^63 items": (ARRAY, zigzag(-(2**63)) + zigzag(1) + zigzag(0) + zigzag(0)),
    "block larger than it states": (ARRAY, zigzag(-2) + zigzag(1) + zigzag(7) + zigzag(8) + zigzag(0)),
    "block smaller than it states": (ARRAY, zigzag(-2) + zigzag(3) + zigzag(7) + zigzag(8) + zigzag(0)),
    "negative block size": (ARRAY, zigzag(-1) + zigzag(-1) + zigzag(7) + zigzag(0)),
    "map of 2^60 entries": (MAP, zigzag(2**60)),
    "array without end": (ARRAY, zigzag(1) + zigzag(7)),
    "2^40 nulls": ({"type": "array", "items": "null"}, zigzag(2**40) + zigzag(0)),
    "2^40 nulls in many blocks": ({"type": "array", "items": "null"}, zigzag(50_000) * 200 + zigzag(0)),
    "2^40 empty records": ({"type": "array", "items": record_schema("Nothing")}, zigzag(2**40) + zigzag(0)),
    "arrays of nulls in an array": (
        {"type": "array", "items": {"type": "array", "items": "null"}},
        zigzag(100) + (zigzag(90_000) + zigzag(0)) * 100 + zigzag(0),
    ),
}


@pytest.mark.parametrize(("type_", "data"), INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("field", ["extra", "read"])
def test_bytes_that_no_writer_produces_are_malformed(field: str, type_: Any, data: bytes) -> None:
    names = {"read": {"string": "model", "bytes": "model", "long": "prompt_tokens", "int": "prompt_tokens"}}
    kind = type_ if isinstance(type_, str) else "union"
    schema = record_schema(**{names.get(field, {}).get(kind, "extra"): type_})
    started_s = time.perf_counter()
    assert reason(schema, data) == "malformed"
    assert time.perf_counter() - started_s < 2.0


def test_zero_width_items_are_read_up_to_their_limit() -> None:
    schema = record_schema(extra={"type": "array", "items": "null"}, model="string")
    data = zigzag(MAX_EMPTY_ITEMS) + zigzag(0) + string("m")
    assert only(schema, data) == {**ABSENT, "model": b"m"}


@pytest.mark.parametrize("depth", [1_000, 100_000, 1_000_000])
@pytest.mark.parametrize(
    "inside",
    [["null", "Node"], {"type": "array", "items": "Node"}, {"type": "map", "values": "Node"}],
    ids=["union", "array", "map"],
)
def test_nesting_deeper_than_the_stack_is_malformed(inside: Any, depth: int) -> None:
    schema = record_schema("Node", next=inside)
    level = zigzag(1) + (string("k") if isinstance(inside, dict) and inside["type"] == "map" else b"")
    assert reason(schema, level * depth + zigzag(0) * (depth + 1)) == "malformed"


def test_a_record_directly_within_itself_has_no_data_and_is_malformed() -> None:
    assert reason(record_schema("Node", next="Node"), b"\0" * 50) == "malformed"
