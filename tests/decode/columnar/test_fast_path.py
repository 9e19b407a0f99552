"""Fast path of the columnar decoder: messages that stay on it, messages that leave it, and equal results for both."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.decode.differential import THOROUGH, both_decoders, fallback_rows, run
from tests.decode.generate import STAMPS
from tests.decode.helpers import record_schema, spans_of, string, write, zigzag
from tests.spanfactory import MODELS, SPAN_SCHEMA, datum, random_span, span
from tokentrace.decode.columnar.compile import MAX_WIDTH
from tokentrace.decode.columnar.cursors import Cursors
from tokentrace.decode.columnar.decoder import MAX_SPARSE_ROUNDS, MIN_ROWS, SPARSE_ROWS

NULL_STRING = ["null", "string"]
MAP = {"type": "map", "values": ["null", "boolean", "long", "double", "string"]}


# Messages that stay on the fast path.


def valid_batch() -> list[bytes]:
    rng = random.Random(5)
    return [datum(random_span(rng)) for _ in range(500)]


def test_valid_spans_stay_on_the_fast_path() -> None:
    assert fallback_rows(SPAN_SCHEMA, valid_batch()) == []


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("long", [0, -1, 63, 64, 2**20, 2**21, 2**27, 2**48, 2**55, 2**56, 2**62, -(2**63), 2**63 - 1]),
        (["null", "long"], [None, 1, 2**40, None]),
        (["long", "string", "double", "null"], [1, "x", 0.5, None, "y" * 500, 2**40]),
        ("double", [0.5, -0.0, 1e300]),
        ("string", ["", "x", "x" * 63, "x" * 64, "x" * 8192, "x" * 2**20, "x" * (2**20 + 1)]),
        ({"type": "array", "items": "string"}, [[], ["a"], ["b", "c" * 100], ["d"] * 70, ["e"] * 9000]),
        ({"type": "map", "values": {"type": "map", "values": "int"}}, [{}, {"a": {}}, {"b": {"c": 1}, "e": {}}]),
        ({"type": "fixed", "name": "F", "size": 1000}, [bytes(1000)] * 3),
        ({"type": "enum", "name": "E", "symbols": [f"s{n}" for n in range(200)]}, ["s0", "s63", "s64", "s199"]),
        ([{"type": "fixed", "name": f"F{n}", "size": n} for n in range(150)], [bytes(n) for n in (0, 63, 64, 149)]),
        (record_schema("R", a="int", b=["null", record_schema("Q", c="int")]), [{"a": 1}, {"a": 2, "b": {"c": 3}}]),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_any_size_stay_on_the_fast_path(type_: Any, values: list[Any]) -> None:
    schema = record_schema(extra=type_, model="string")
    assert fallback_rows(schema, [write(schema, {"extra": value, "model": "m"}) for value in values]) == []


@pytest.mark.parametrize("unit", STAMPS)
def test_timestamps_of_any_unit_stay_on_the_fast_path(unit: str) -> None:
    schema = record_schema(started_at={"type": "long", "logicalType": unit}, model="string")
    scale = {"millis": 1, "micros": 10**3, "nanos": 10**6}[unit.rpartition("-")[2]]
    stamps = [1_790_000_000_123 * scale + 7, 0, -1, -scale * 10**12 - 1]
    assert fallback_rows(schema, [zigzag(stamp) + string("m") for stamp in stamps]) == []


def test_blocks_that_declare_their_size_stay_on_the_fast_path() -> None:
    schema = record_schema(tags={"type": "array", "items": "string"}, model="string")
    tags = string("a") + string("b" * 99)
    sized = zigzag(-2) + zigzag(len(tags)) + tags
    plain = zigzag(2) + tags
    blocks = [sized, plain, sized + plain, plain + sized, b"", sized * 5, zigzag(-1) + zigzag(2) + string("c") + sized]
    assert fallback_rows(schema, [block + zigzag(0) + string("m") for block in blocks]) == []


def test_padded_numbers_stay_on_the_fast_path() -> None:
    schema = record_schema(prompt_tokens="long", model="string")
    padded = [b"\x82" + b"\x80" * more + b"\0" for more in range(9)]
    assert fallback_rows(schema, [number + string("m") for number in padded]) == []


def test_non_ascii_names_stay_on_the_fast_path() -> None:
    names = [name for name, _ in MODELS] + [
        "é",
        "模型" * 9,
        "ü" * 28,
        "ü" * 29,
        "x" * 57 + "ü",
        "x" * 1000 + "é",
        "x" * 58,
    ]
    datums = [datum(span(model=name, provider=name[::-1], caller=name * 2)) for name in names * 3]
    assert fallback_rows(SPAN_SCHEMA, datums) == []


# Messages that leave it.


VALID = datum(span())
INVALID = {
    "cut": VALID[:-1],
    "longer": VALID + b"\0",
    "empty": b"",
    "invalid model": VALID.replace(b"gpt-4o", b"gpt\xff4o"),
    "invalid model at its end": VALID.replace(b"gpt-4o", b"gpt-4\xff"),
    "invalid provider": VALID.replace(b"openai", b"\x80penai"),
    "invalid long caller": datum(span(caller="c" * 2000)).replace(b"c" * 2000, b"c" * 1999 + b"\xff"),
    "negative length": b"\1" + VALID[1:],
    "length of 2^62": zigzag(2**62) + VALID[1:],
    "length of 2^63-1": zigzag(2**63 - 1) + VALID[1:],
    "length of -2^63": zigzag(-(2**63)) + VALID[1:],
    "length of its neighbours": zigzag(2000) + VALID[1:],
    "65 bits": b"\xff" * 9 + b"\3",
    "no end of a number": b"\x80" * len(VALID),
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("row", [0, 7, 499])
def test_an_invalid_message_leaves_the_fast_path_alone(data: bytes, row: int) -> None:
    datums = valid_batch()
    datums[row] = data
    assert fallback_rows(SPAN_SCHEMA, datums) == [row]


def test_a_message_that_ends_where_another_one_does_is_rejected() -> None:
    """It claims its neighbour's bytes, so only the end of its datum is wrong."""
    schema = record_schema(model="string", prompt_tokens="long")
    datums = [string("m") + zigzag(1), zigzag(4) + b"m", string("m") + zigzag(2)] * 3
    _, columnar = both_decoders(schema, **THOROUGH)
    assert columnar is not None
    spans, rejects = run(columnar, datums)
    assert [reject.row for reject in rejects] == [1, 4, 7]
    assert [decoded["prompt_tokens"] for decoded in spans_of(spans)] == [1, 2] * 3


def test_the_utf8_check_skips_labels_outside_their_message() -> None:
    schema = record_schema(name="string", model="string")
    away = zigzag(300) + b"m"
    datums = [away, *([string("n" * 40) + string("é")] * 20), away]
    assert fallback_rows(schema, datums, chunk_rows=3) == [0, 21]


@pytest.mark.parametrize("count", [-(2**63), -(2**62), 2**62, 2**63 - 1, 2**40, 5])
def test_a_block_of_more_items_than_it_has_bytes_is_malformed(count: int) -> None:
    schema = record_schema(extra={"type": "array", "items": "int"})
    head = zigzag(count) + (zigzag(0) if count < 0 else b"")
    datums = [head, head + zigzag(0), head + zigzag(0) * 2, zigzag(0)]
    assert fallback_rows(schema, datums) == [0, 1, 2]
    assert fallback_rows(schema, datums[:2]) == [0, 1]


@pytest.mark.parametrize(
    ("field", "type_", "data"),
    [
        ("prompt_tokens", ["long", "string"], zigzag(1) + string("12")),
        ("model", ["string", "long"], zigzag(1) + zigzag(4)),
        ("status", ["string", MAP], zigzag(1) + zigzag(0)),
        ("model", NULL_STRING, zigzag(-1) + string("m")),
        ("model", NULL_STRING, zigzag(2)),
        ("status", {"type": "enum", "name": "E", "symbols": ["ok"]}, zigzag(1)),
        ("started_at", {"type": "long", "logicalType": "timestamp-millis"}, zigzag(2**62)),
    ],
)
def test_unusual_values_go_to_the_fallback(field: str, type_: Any, data: bytes) -> None:
    good = {"long": zigzag(5), "string": string("ok"), "enum": zigzag(0)}
    first = type_[0] if isinstance(type_, list) else type_["type"]
    usual = (zigzag(0) if isinstance(type_, list) else b"") + good.get(first, b"")
    assert fallback_rows(record_schema(**{field: type_}), [usual, data, usual, data, usual]) == [1, 3]


def test_empty_messages_are_valid_for_a_schema_without_bytes() -> None:
    for schema in (record_schema(), record_schema(nothing="null", empty=record_schema("E"))):
        assert fallback_rows(schema, [b""] * 9) == []
        assert fallback_rows(schema, [b"", b"\0", b""]) == [1]


@pytest.mark.parametrize("count", [0, 1, MIN_ROWS - 1, MIN_ROWS])
def test_small_batches_go_to_the_fallback(count: int) -> None:
    slow = fallback_rows(SPAN_SCHEMA, valid_batch()[:count], min_rows=MIN_ROWS)
    assert slow == (list(range(count)) if count < MIN_ROWS else [])


def test_a_message_with_very_many_items_goes_to_the_fallback() -> None:
    datums = valid_batch()
    datums[3] = datum(span(attributes={f"k{n}": n for n in range(2 * MAX_SPARSE_ROUNDS)}))
    assert fallback_rows(SPAN_SCHEMA, datums, sparse_rows=SPARSE_ROWS) == [3]


@pytest.mark.parametrize("items", [1, 2])
def test_a_dropped_message_cannot_end_at_its_datum_by_chance(items: int) -> None:
    """The bytes after the array would also be valid if they began right after the last item that was read."""
    schema = record_schema(extra={"type": "array", "items": "int"}, model="string")
    data = zigzag(items) + zigzag(0) * (items - 1) + zigzag(2) + zigzag(0) + string("")
    for max_sparse_rounds in range(3):
        assert fallback_rows(schema, [data], sparse_rows=SPARSE_ROWS, max_sparse_rounds=max_sparse_rounds) == (
            [0] if max_sparse_rounds < items else []
        )


def test_maps_of_twenty_entries_stay_on_the_fast_path() -> None:
    datums = [datum(span(attributes={f"k{n}": n for n in range(row % 21)})) for row in range(1000)]
    assert fallback_rows(SPAN_SCHEMA, datums, sparse_rows=SPARSE_ROWS) == []


ARRAYS = {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": "int"}}}


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (SPAN_SCHEMA, datum(span(attributes={f"k{n}": n for n in range(3_000)}))),
        (record_schema(extra=ARRAYS), (zigzag(63) * 3 + b"\2" * 63) * 20),
        (record_schema(extra=ARRAYS), zigzag(50) * 3_000),
        (record_schema(extra={"type": "array", "items": "string"}), (zigzag(1) + string("")) * 3_000 + zigzag(0)),
        (record_schema(extra=ARRAYS), zigzag(60) * 50),
    ],
    ids=["many entries", "nested", "nested without end", "many blocks", "short"],
)
@pytest.mark.parametrize("copies", [1, 9, 300])
def test_hostile_messages_cost_a_bounded_number_of_reads(
    schema: Any, data: bytes, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read is one array operation over the rows that are left; it pays off with many rows."""
    copies = min(copies, max(9, 600_000 // len(data)))
    _, columnar = both_decoders(schema)
    assert columnar is not None
    rows_read: list[int] = []

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(cursors: Cursors, *arguments: Any) -> Any:
            rows_read.append(len(cursors))
            return read(cursors, *arguments)

        return counted

    for name in ("varint", "skip_varint", "words"):
        monkeypatch.setattr(Cursors, name, counting(getattr(Cursors, name)))
    run(columnar, [data] * copies)
    assert len(rows_read) <= 4 * MAX_SPARSE_ROUNDS + sum(rows_read) / SPARSE_ROWS
    assert sum(rows_read) <= 2 * copies * len(data)


def test_types_without_valid_values_make_every_message_malformed() -> None:
    for type_ in ({"type": "enum", "name": "E", "symbols": []}, {"type": "fixed", "name": "F", "size": MAX_WIDTH}):
        for field in ("extra", "model") if type_["type"] == "enum" else ("extra",):
            assert fallback_rows(record_schema(**{field: type_}), [b"", b"\0", b"\2" * 40]) == [0, 1, 2]


def test_the_utf8_check_covers_buffers_larger_than_its_block() -> None:
    names = ["é", "e" * 9, "ü" * 20]
    schema = record_schema(model="string", error="string")
    datums = [write(schema, {"model": names[row % 3], "error": "x" * (row * 37 % 5000)}) for row in range(500)]
    datums[100] = string(b"\xff") + string("")
    assert fallback_rows(schema, datums) == [100]
