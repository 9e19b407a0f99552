"""Schemas that cannot be read as spans are refused once, with why."""

from __future__ import annotations

from typing import Any

import pytest

from tests.decode.helpers import record_schema
from tokentrace.decode.resolve import resolve
from tokentrace.decode.schema_tree import MAX_NODES
from tokentrace.errors import SchemaError

NAMED = {"type": "fixed", "name": "F", "size": 2}


def doubling(levels: int) -> dict[str, Any]:
    """A record of records, each of which holds the one before it ten times."""
    inner: Any = record_schema("L0", x="int")
    for level in range(1, levels):
        fields = {f"f{index}": (inner if index == 0 else f"L{level - 1}") for index in range(10)}
        inner = record_schema(f"L{level}", **fields)
    return record_schema("Top", model="string", nested=inner)


UNUSABLE: dict[str, tuple[Any, str]] = {
    "not a record": ("string", "its top level is a string, not a record"),
    "an array": ({"type": "array", "items": "int"}, "its top level is an array, not a record"),
    "no JSON schema at all": (7, "not a valid Avro schema"),
    "unknown type": (record_schema(model="strng"), "not a valid Avro schema"),
    "no fields": ({"type": "record", "name": "Span"}, "not a valid Avro schema"),
    "empty union": (record_schema(model=[]), "not a valid Avro schema"),
    "union in a union": (record_schema(model=["null", ["string"]]), "not a valid Avro schema"),
    "twice the same type": (record_schema(a=NAMED, b=NAMED), "not a valid Avro schema"),
    "twice the same field": (
        {"type": "record", "name": "S", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]},
        "not a valid Avro schema",
    ),
    "fixed without a size": (record_schema(a={"type": "fixed", "name": "F", "size": -1}), "not a valid Avro schema"),
    "types without end": (doubling(7), f"the schema expands to more than {MAX_NODES} types"),
    "tokens as text": (record_schema(prompt_tokens="string"), "field 'prompt_tokens' is a string; prompt_tokens takes"),
    "tokens as a union of others": (
        record_schema(prompt_tokens=["string", "double"]),
        "field 'prompt_tokens' is a union of string, double; prompt_tokens takes int or long",
    ),
    "an array for a model": (
        record_schema(model={"type": "array", "items": "string"}),
        "field 'model' is an array; model takes bytes or enum or string",
    ),
}


@pytest.mark.parametrize(("schema", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_schema_that_is_no_span_is_refused_with_why(schema: Any, why: str) -> None:
    with pytest.raises(SchemaError) as caught:
        resolve(schema)
    assert caught.value.reason == "schema_unusable"
    assert str(caught.value).startswith("The writer schema cannot be read as a span: ")
    assert why in str(caught.value)


def test_fields_that_are_always_null_and_attributes_without_a_map_fill_no_column() -> None:
    schema = record_schema(model="string", cost_usd="null", attributes="string")
    assert dict(resolve(schema).field_columns) == {"model": "model"}


def test_a_name_has_precedence_over_an_alias() -> None:
    schema = record_schema(cost="double", cost_usd="double", comp_tokens="long")
    assert dict(resolve(schema).field_columns) == {"cost_usd": "cost_usd", "comp_tokens": "completion_tokens"}


def test_namespaces_and_wrapped_types_are_followed() -> None:
    status = {"type": "enum", "name": "a.b.Status", "symbols": ["ok"]}
    schema = {
        "type": "record", "name": "Span", "namespace": "x.y",
        "fields": [
            {"name": "inner", "type": {"type": "record", "name": "I", "fields": [{"name": "f", "type": NAMED}]}},
            {"name": "again", "type": "I"},
            {"name": "full", "type": "x.y.F"},
            {"name": "status", "type": {"type": status}},
            {"name": "model", "type": {"type": {"type": "string"}}},
        ],
    }  # fmt: skip
    resolution = resolve(schema)
    assert dict(resolution.field_columns) == {"status": "status", "model": "model"}
    assert (resolution.recursive, resolution.unbounded) == (False, False)


def test_recursive_and_unbounded_types_are_found() -> None:
    assert resolve(record_schema("Node", model="string", next=["null", "Node"])).recursive
    assert resolve(record_schema(model="string", x={"type": "array", "items": "null"})).unbounded
