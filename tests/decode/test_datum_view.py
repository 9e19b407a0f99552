"""The view of a datum: the values that fastavro gives, as far as the bytes go, and never an exception."""

from __future__ import annotations

import io
import random
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.generate import Generator
from tests.decode.helpers import record_schema, string, write, zigzag
from tests.spanfactory import SPAN_SCHEMA, datum, span
from tokentrace.decode.datum_check import Malformed
from tokentrace.decode.datum_view import FieldView, branch_of, fields_of
from tokentrace.decode.schema_tree import parse_schema, read_tree


def views(schema: Any, data: bytes) -> list[FieldView]:
    record, start = branch_of(read_tree(schema).root, data)
    return list(fields_of(record, data, start))


def test_the_fields_of_a_span_have_the_values_that_fastavro_reads() -> None:
    record = span(model="m", attributes={"team": "x", "eval.score": 0.5}, usage={"web_search": 2.0})
    found = {view.name: view.value for view in views(SPAN_SCHEMA, datum(record))}
    for name, value in record.items():
        if not name.endswith("_at"):
            assert found[name] == value
    assert found["started_at"] == f"{record['started_at']} (2026-09-21T14:13:20Z)"


@given(st.integers(0, 2**32))
def test_any_bytes_have_a_view_and_sound_ones_the_numbers_of_fastavro(seed: int) -> None:
    rng = random.Random(seed)
    generator = Generator(rng)
    schema = generator.schema()
    data = generator.datum(schema)
    want = fastavro.schemaless_reader(io.BytesIO(data), parse_schema(schema), None, handle_unicode_errors="replace")
    found = views(schema, data)
    assert [view.name for view in found] == [field["name"] for field in schema["fields"]]
    assert not any(view.problem for view in found)
    for view in found:
        if isinstance(view.value, (bool, int)):
            assert view.value == want[view.name]
    broken = views(schema, generator.damage(data, [data]))
    assert not any(view.problem for view in broken[:-1]), "only the last may have a problem: nothing follows it"


def test_the_field_at_which_a_datum_ends_is_named_with_the_bytes_that_are_left() -> None:
    schema = record_schema(model="string", prompt_tokens="long", caller="string")
    whole = string("gpt-4o") + zigzag(7) + string("search")
    for cut, name in ((1, "model"), (7, "prompt_tokens"), (10, "caller"), (8, "caller")):
        found = views(schema, whole[:cut])
        assert (found[-1].name, "the datum ends in the middle of a value" in found[-1].problem or cut == 7) == (
            name,
            True,
        )
    assert views(schema, whole[:9])[-1].problem.endswith("the bytes from 8 on are 0c")
    assert views(schema, whole[:8])[-1].problem.endswith("no bytes are left")
    assert views(schema, whole + b"xyz")[-1].problem == '3 bytes follow the end of the datum: "xyz"'


def test_decimals_times_bytes_and_unions_are_shown_as_they_are_meant() -> None:
    schema = record_schema(
        cost={"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 4},
        started_at={"type": "long", "logicalType": "timestamp-millis"},
        far={"type": "long", "logicalType": "timestamp-micros"},
        id=["null", "bytes"],
    )
    data = string(b"\x00\xff") + zigzag(0) + zigzag(2**62) + zigzag(1) + string(b"\xff")
    assert [(view.type_, view.value) for view in views(schema, data)] == [
        ("decimal of 4 digits", "0.0255"),
        ("timestamp-millis", "0 (1970-01-01T00:00:00Z)"),
        ("timestamp-micros", f"{2**62} (beyond the years that have four digits)"),
        ("bytes", "ff"),
    ]
    union = ["null", record_schema(model="string")]
    assert [view.value for view in views(union, zigzag(1) + write(union[1], {"model": "m"}))] == ["m"]
    with pytest.raises(Malformed, match="out of range"):
        views(union, zigzag(2))
