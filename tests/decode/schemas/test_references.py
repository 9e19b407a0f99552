"""References: a schema that names types of other subjects becomes one that stands alone."""

from __future__ import annotations

import copy
import io
from typing import Any

import fastavro
import pytest

from tests.decode.helpers import record_schema
from tokentrace.decode.schema_tree import parse_schema
from tokentrace.decode.schemas.references import inline

STATUS = {"type": "enum", "name": "com.example.Status", "symbols": ["ok", "error"]}
COST = {"type": "record", "name": "Cost", "namespace": "com.example", "fields": [{"name": "usd", "type": "double"}]}
BARE = {"type": "fixed", "name": "Hash", "size": 2}


def of(type_: Any, **more: Any) -> dict[str, Any]:
    """A record of one field, f, of this type."""
    return {"type": "record", "name": "Span", "fields": [{"name": "f", "type": type_}], **more}


def survives(schema: Any, record: Any) -> bool:
    """The record is written and read by the schema, with nothing else at hand."""
    parsed, stream = parse_schema(schema), io.BytesIO()
    fastavro.schemaless_writer(stream, parsed, record)
    stream.seek(0)
    return bool(fastavro.schemaless_reader(stream, parsed, None) == record)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("com.example.Status", "ok"),
        (["null", "com.example.Status"], "error"),
        ({"type": "array", "items": "com.example.Status"}, ["ok", "error"]),
        ({"type": "map", "values": ["null", "com.example.Status"]}, {"a": None, "b": "ok"}),
        ({"type": "com.example.Status"}, "ok"),
        (record_schema("Inner", g="com.example.Status"), {"g": "ok"}),
    ],
    ids=str,
)
def test_a_name_is_replaced_by_its_definition_wherever_it_stands(type_: Any, value: Any) -> None:
    schema = of(type_)
    before = copy.deepcopy(schema)
    assert survives(inline(schema, {"com.example.Status": STATUS}), {"f": value})
    assert schema == before


def test_the_first_mention_is_the_definition_and_later_ones_find_it() -> None:
    schema = record_schema(a="com.example.Status", b=["null", "com.example.Status"], c="com.example.Status")
    inlined = inline(schema, {"com.example.Status": STATUS})
    assert [field["type"] for field in inlined["fields"]] == [
        STATUS,
        ["null", "com.example.Status"],
        "com.example.Status",
    ]
    assert survives(inlined, {"a": "ok", "b": None, "c": "error"})


@pytest.mark.parametrize(
    "where",
    [{"namespace": "com.example"}, {"name": "com.example.Span"}, {"name": "com.example.Span", "namespace": "x"}],
)
def test_a_short_name_is_looked_for_in_the_namespace_that_it_stands_in(where: dict[str, str]) -> None:
    assert survives(inline(of("Status", **where), {"com.example.Status": STATUS}), {"f": "ok"})
    inner = of("Status")
    assert survives(inline(of(inner | {"name": "Inner"}, **where), {"com.example.Status": STATUS}), {"f": {"f": "ok"}})


def test_a_short_name_elsewhere_is_another_type() -> None:
    schema = of("Status", namespace="org.other")
    assert inline(schema, {"com.example.Status": STATUS}) == schema


def test_references_may_refer_to_others() -> None:
    call = record_schema("com.example.Call", cost="Cost", status=["null", "Status"])
    references = {"com.example.Call": call, "com.example.Cost": COST, "com.example.Status": STATUS}
    schema = record_schema("org.other.Span", call="com.example.Call", status="com.example.Status")
    record = {"call": {"cost": {"usd": 0.5}, "status": "ok"}, "status": "error"}
    assert survives(inline(schema, references), record)


def test_a_definition_without_a_namespace_stays_without_one() -> None:
    inlined = inline(of("Hash"), {"Hash": BARE})
    assert survives(inlined, {"f": b"ab"})
    nested = {"com.example.Pair": record_schema("com.example.Pair", one=["null", "int"])}
    outer = record_schema("org.other.Span", hash={"type": "map", "values": "com.example.Pair"})
    assert survives(inline(outer, nested), {"hash": {"a": {"one": 1}}})
    rooted = inline({"type": "array", "items": "Hash"}, {"Hash": BARE})
    assert rooted == {"type": "array", "items": {"namespace": "", **BARE}}


def test_a_reference_may_be_the_whole_schema() -> None:
    assert survives(inline("com.example.Cost", {"com.example.Cost": COST}), {"usd": 1.0})


def test_a_reference_to_an_unnamed_type_is_inlined() -> None:
    assert inline(of("Alias"), {"Alias": ["null", "string"]}) == of(["null", "string"])
    assert inline(of("Alias"), {"Alias": "string"}) == of("string")


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = record_schema("com.example.Node", next=["null", "com.example.Node"], kids={"type": "array", "items": "Node"})
    inlined = inline(of("com.example.Node"), {"com.example.Node": node})
    record = {"next": {"next": None, "kids": []}, "kids": [{"next": None, "kids": []}]}
    assert survives(inlined, {"f": record})


@pytest.mark.parametrize(
    "schema", ["string", 7, None, of("string"), {"type": "record", "name": "R", "fields": 7}], ids=str
)
def test_a_schema_without_references_is_unchanged(schema: Any) -> None:
    assert inline(schema, {"com.example.Status": STATUS}) == schema
    assert inline(schema, {}) == schema
