"""The columnar decoder against the reference: any schema, any bytes, any order, the same columns and rejects."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.spanfactory import MODELS, SPAN_SCHEMA, datum, message, random_span, span
from tokentrace.decode import SpanDecoder
from tokentrace.decode.columnar import MIN_ROWS, PATIENCE, THIN_ROWS, ColumnarDecoder
from tokentrace.decode.labels import NotAscii, invalid_utf8
from tokentrace.decode.plan import MAX_DEPTH, MAX_WIDTH
from tokentrace.decode.reference import ReferenceDecoder
from tokentrace.decode.resolve import resolve
from tokentrace.messages import Reject
from tokentrace.schemas import WriterSchemas
from tokentrace.spans import SpanColumns, Strings

from .agreement import THOROUGH, assert_agreement, both_decoders, run
from .generate import STAMPS, Generator
from .helpers import record_schema, spans_of, string, write, zigzag

NULL_STRING = ["null", "string"]
ANY = ["null", "boolean", "int", "long", "float", "double", "string", "bytes", {"type": "array", "items": "int"}]
MAP = {"type": "map", "values": ["null", "boolean", "long", "double", "string"]}


class Recorder(ReferenceDecoder):
    """The reference, remembering which rows it was given."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.rows: list[int] = []

    def decode_into(self, columns: SpanColumns, rows: Any, start: Any, end: Any) -> list[Reject]:
        self.rows += rows.tolist()
        return super().decode_into(columns, rows, start, end)


def left_over(schema: Any, datums: Sequence[bytes], **options: int) -> list[int]:
    """The rows that the columnar decoder leaves to the reference, after both were seen to agree."""
    recorder = Recorder(schema)
    columnar = ColumnarDecoder.compile(schema, resolve(schema), recorder, **(THOROUGH | options))
    assert columnar is not None
    run(columnar, datums)
    rows, recorder.rows = recorder.rows, []
    assert_agreement(schema, datums, ReferenceDecoder(schema), columnar)
    return rows


# The law.


def random_batch(seed: int) -> tuple[random.Random, Any, list[bytes]]:
    """A schema and datums of it, of which none, some or all are damaged."""
    rng = random.Random(seed)
    generator = Generator(rng)
    schema = generator.schema()
    wild = rng.random() < 0.5
    datums = [generator.datum(schema, wild) for _ in range(rng.choice((1, 2, 9, 30)))]
    share = rng.choice((0.0, 0.3, 1.0))
    return rng, schema, [generator.damage(each, datums) if rng.random() < share else each for each in datums]


SEEDS = st.integers(0, 2**64 - 1)


@given(SEEDS)
def test_columnar_and_reference_agree_on_any_schema_and_any_bytes(seed: int) -> None:
    rng, schema, datums = random_batch(seed)
    options = rng.choice((THOROUGH, THOROUGH, THOROUGH | {"chunk_rows": 4}, {"min_rows": 0, "patience": 3}))
    reference, columnar = both_decoders(schema, **options)
    if columnar is not None:
        assert_agreement(schema, datums, reference, columnar)


@given(SEEDS, st.sampled_from([True, False]))
def test_columnar_and_reference_agree_on_spans_that_were_damaged(seed: int, wild: bool) -> None:
    generator = Generator(rng := random.Random(seed))
    datums = [generator.datum(SPAN_SCHEMA, wild) for _ in range(20)]
    datums = [generator.damage(each, datums) if rng.random() < 0.3 else each for each in datums]
    reference, columnar = both_decoders(SPAN_SCHEMA, **THOROUGH)
    assert columnar is not None
    assert_agreement(SPAN_SCHEMA, datums, reference, columnar)


@given(SEEDS)
def test_neither_order_nor_division_into_batches_matters(seed: int) -> None:
    rng, schema, datums = random_batch(seed)
    _, columnar = both_decoders(schema, **THOROUGH)
    if columnar is None:
        return
    rows = rng.sample(range(2 * len(datums)), len(datums))
    whole, rejects = run(columnar, datums, rows)
    spans, errors = {}, {}
    for row, data in sorted(zip(rows, datums, strict=True)):
        one, wrong = run(columnar, [data])
        if wrong:
            errors[row] = (wrong[0].reason, wrong[0].error)
        else:
            spans[row] = spans_of(one)[0]
    # As text, since NaN equals nothing.
    assert repr(dict(zip(whole.row.tolist(), spans_of(whole), strict=True))) == repr(spans)
    assert {each.row: (each.reason, each.error) for each in rejects} == errors


@given(SEEDS)
def test_a_recursive_schema_is_left_to_fastavro(seed: int) -> None:
    schema = Generator(random.Random(seed)).schema(recursive=True)
    resolution = resolve(schema)
    columnar = ColumnarDecoder.compile(schema, resolution)
    assert columnar is None or not (resolution.recursive or resolution.unbounded)


def test_what_the_differential_tests_generate_takes_the_fast_path_and_is_rejected_often_enough() -> None:
    """A comparison shows nothing where every message is left to the reference, or where none is wrong."""
    fast = slow = wrong = 0
    for seed in range(300):
        _, schema, datums = random_batch(seed)
        recorder = Recorder(schema)
        columnar = ColumnarDecoder.compile(schema, resolve(schema), recorder, **THOROUGH)
        if columnar is not None:
            _, rejects = run(columnar, datums)
            slow += len(recorder.rows)
            fast += len(datums) - len(recorder.rows)
            wrong += len(rejects)
    assert min(fast, wrong) > 1000
    assert slow < 1.2 * wrong


# What stays on the fast path.


def sound_batch() -> list[bytes]:
    rng = random.Random(5)
    return [datum(random_span(rng)) for _ in range(500)]


def test_no_sound_span_is_left_to_the_reference() -> None:
    assert left_over(SPAN_SCHEMA, sound_batch()) == []


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
    assert left_over(schema, [write(schema, {"extra": value, "model": "m"}) for value in values]) == []


@pytest.mark.parametrize("unit", STAMPS)
def test_timestamps_of_any_unit_stay_on_the_fast_path(unit: str) -> None:
    schema = record_schema(started_at={"type": "long", "logicalType": unit}, model="string")
    scale = {"millis": 1, "micros": 10**3, "nanos": 10**6}[unit.rpartition("-")[2]]
    stamps = [1_790_000_000_123 * scale + 7, 0, -1, -scale * 10**12 - 1]
    assert left_over(schema, [zigzag(stamp) + string("m") for stamp in stamps]) == []


def test_blocks_that_state_their_size_stay_on_the_fast_path() -> None:
    schema = record_schema(tags={"type": "array", "items": "string"}, model="string")
    tags = string("a") + string("b" * 99)
    sized = zigzag(-2) + zigzag(len(tags)) + tags
    plain = zigzag(2) + tags
    blocks = [sized, plain, sized + plain, plain + sized, b"", sized * 5, zigzag(-1) + zigzag(2) + string("c") + sized]
    assert left_over(schema, [each + zigzag(0) + string("m") for each in blocks]) == []


def test_numbers_with_needless_bytes_stay_on_the_fast_path() -> None:
    schema = record_schema(prompt_tokens="long", model="string")
    padded = [b"\x82" + b"\x80" * more + b"\0" for more in range(9)]
    assert left_over(schema, [each + string("m") for each in padded]) == []


def test_names_that_are_not_ascii_stay_on_the_fast_path() -> None:
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
    assert left_over(SPAN_SCHEMA, datums) == []


# What leaves it, alone.


SOUND = datum(span())
UNSOUND = {
    "cut": SOUND[:-1],
    "longer": SOUND + b"\0",
    "empty": b"",
    "invalid model": SOUND.replace(b"gpt-4o", b"gpt\xff4o"),
    "invalid model at its end": SOUND.replace(b"gpt-4o", b"gpt-4\xff"),
    "invalid provider": SOUND.replace(b"openai", b"\x80penai"),
    "invalid long caller": datum(span(caller="c" * 2000)).replace(b"c" * 2000, b"c" * 1999 + b"\xff"),
    "negative length": b"\1" + SOUND[1:],
    "length of 2^62": zigzag(2**62) + SOUND[1:],
    "length of 2^63-1": zigzag(2**63 - 1) + SOUND[1:],
    "length of -2^63": zigzag(-(2**63)) + SOUND[1:],
    "length of its neighbours": zigzag(2000) + SOUND[1:],
    "65 bits": b"\xff" * 9 + b"\3",
    "no end of a number": b"\x80" * len(SOUND),
}


@pytest.mark.parametrize("data", UNSOUND.values(), ids=UNSOUND)
@pytest.mark.parametrize("row", [0, 7, 499])
def test_one_unsound_message_is_rejected_alone(data: bytes, row: int) -> None:
    datums = sound_batch()
    datums[row] = data
    assert left_over(SPAN_SCHEMA, datums) == [row]


def test_a_message_that_ends_where_another_one_does_is_rejected() -> None:
    """It claims its neighbour's bytes, so that its values would be sound but for the end."""
    schema = record_schema(model="string", prompt_tokens="long")
    datums = [string("m") + zigzag(1), zigzag(4) + b"m", string("m") + zigzag(2)] * 3
    _, columnar = both_decoders(schema, **THOROUGH)
    assert columnar is not None
    spans, rejects = run(columnar, datums)
    assert [reject.row for reject in rejects] == [1, 4, 7]
    assert [each["prompt_tokens"] for each in spans_of(spans)] == [1, 2] * 3


def test_a_label_that_lies_among_other_messages_is_not_looked_at() -> None:
    schema = record_schema(name="string", model="string")
    away = zigzag(300) + b"m"
    datums = [away, *([string("n" * 40) + string("é")] * 20), away]
    assert left_over(schema, datums, chunk_rows=3) == [0, 21]


@pytest.mark.parametrize("count", [-(2**63), -(2**62), 2**62, 2**63 - 1, 2**40, 5])
def test_a_block_of_more_items_than_it_has_bytes_is_malformed(count: int) -> None:
    schema = record_schema(extra={"type": "array", "items": "int"})
    head = zigzag(count) + (zigzag(0) if count < 0 else b"")
    datums = [head, head + zigzag(0), head + zigzag(0) * 2, zigzag(0)]
    assert left_over(schema, datums) == [0, 1, 2]
    assert left_over(schema, datums[:2]) == [0, 1]


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
def test_a_value_that_is_unusual_is_left_to_the_reference(field: str, type_: Any, data: bytes) -> None:
    good = {"long": zigzag(5), "string": string("ok"), "enum": zigzag(0)}
    first = type_[0] if isinstance(type_, list) else type_["type"]
    usual = (zigzag(0) if isinstance(type_, list) else b"") + good.get(first, b"")
    assert left_over(record_schema(**{field: type_}), [usual, data, usual, data, usual]) == [1, 3]


def test_messages_of_no_bytes_are_sound_where_the_schema_has_none() -> None:
    for schema in (record_schema(), record_schema(nothing="null", empty=record_schema("E"))):
        assert left_over(schema, [b""] * 9) == []
        assert left_over(schema, [b"", b"\0", b""]) == [1]


@pytest.mark.parametrize("count", [0, 1, MIN_ROWS - 1, MIN_ROWS])
def test_few_messages_are_left_to_the_reference_which_is_faster(count: int) -> None:
    slow = left_over(SPAN_SCHEMA, sound_batch()[:count], min_rows=MIN_ROWS)
    assert slow == (list(range(count)) if count < MIN_ROWS else [])


def test_a_message_with_very_many_items_is_left_to_the_reference() -> None:
    datums = sound_batch()
    datums[3] = datum(span(attributes={f"k{n}": n for n in range(2 * PATIENCE)}))
    assert left_over(SPAN_SCHEMA, datums, thin_rows=THIN_ROWS) == [3]


@pytest.mark.parametrize("items", [1, 2])
def test_a_message_that_is_given_up_does_not_come_out_by_chance(items: int) -> None:
    """What follows the array would also be sound if it began right after the last item that was read."""
    schema = record_schema(extra={"type": "array", "items": "int"}, model="string")
    data = zigzag(items) + zigzag(0) * (items - 1) + zigzag(2) + zigzag(0) + string("")
    for patience in range(3):
        assert left_over(schema, [data], thin_rows=THIN_ROWS, patience=patience) == ([0] if patience < items else [])


def test_maps_of_twenty_entries_stay_on_the_fast_path() -> None:
    datums = [datum(span(attributes={f"k{n}": n for n in range(row % 21)})) for row in range(1000)]
    assert left_over(SPAN_SCHEMA, datums, thin_rows=THIN_ROWS) == []


ARRAYS = {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": "int"}}}


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        (SPAN_SCHEMA, datum(span(attributes={f"k{n}": n for n in range(30_000)}))),
        (record_schema(extra=ARRAYS), (zigzag(63) * 3 + b"\2" * 63) * 20),
        (record_schema(extra=ARRAYS), zigzag(50) * 30_000),
        (record_schema(extra={"type": "array", "items": "string"}), (zigzag(1) + string("")) * 30_000 + zigzag(0)),
        (record_schema(extra=ARRAYS), zigzag(60) * 50),
    ],
    ids=["many entries", "nested", "nested without end", "many blocks", "short"],
)
@pytest.mark.parametrize("copies", [1, 9, 300])
def test_hostile_messages_cost_no_more_than_the_reference_does(schema: Any, data: bytes, copies: int) -> None:
    copies = min(copies, max(1, 2_000_000 // len(data) // 10))
    reference, columnar = both_decoders(schema)
    assert columnar is not None
    times = []
    for decoder in (reference, columnar):
        started_s = time.perf_counter()
        run(decoder, [data] * copies)
        times.append(time.perf_counter() - started_s)
    assert times[1] < 3 * times[0] + 0.5


def test_types_that_no_datum_can_hold_are_malformed() -> None:
    for type_ in ({"type": "enum", "name": "E", "symbols": []}, {"type": "fixed", "name": "F", "size": MAX_WIDTH}):
        for field in ("extra", "model") if type_["type"] == "enum" else ("extra",):
            assert left_over(record_schema(**{field: type_}), [b"", b"\0", b"\2" * 40]) == [0, 1, 2]


def test_a_buffer_larger_than_what_is_looked_at_at_a_time() -> None:
    names = ["é", "e" * 9, "ü" * 20]
    schema = record_schema(model="string", error="string")
    datums = [write(schema, {"model": names[row % 3], "error": "x" * (row * 37 % 5000)}) for row in range(500)]
    datums[100] = string(b"\xff") + string("")
    assert left_over(schema, datums) == [100]


# What has no column form.


def nested(depth: int) -> Any:
    type_: Any = "long"
    for _ in range(depth):
        type_ = {"type": "array", "items": type_}
    return record_schema(extra=type_)


@pytest.mark.parametrize(
    ("schema", "has_one"),
    [
        (SPAN_SCHEMA, True),
        (record_schema("Node", value="int", next=["null", "Node"]), False),
        (record_schema(extra={"type": "array", "items": "null"}), False),
        (record_schema(extra={"type": "array", "items": record_schema("Nothing")}), False),
        (record_schema(extra={"type": "map", "values": "null"}), True),
        (record_schema(extra={"type": "fixed", "name": "F", "size": MAX_WIDTH}), True),
        (record_schema(extra={"type": "fixed", "name": "F", "size": MAX_WIDTH}, more="boolean"), False),
        (record_schema(extra=["null", {"type": "fixed", "name": "F", "size": 2**70}]), False),
        (record_schema(model={"type": "enum", "name": "E", "symbols": ["a"]}), True),
        (nested(MAX_DEPTH - 2), True),
        (nested(MAX_DEPTH - 1), False),
        (nested(400), False),
    ],
    ids=str,
)
def test_whether_a_schema_has_a_column_form(schema: Any, has_one: bool) -> None:
    assert (both_decoders(schema)[1] is not None) == has_one


# The parts.


@given(st.lists(st.text("aé", max_size=70), min_size=1, max_size=30), st.data())
def test_strings_that_are_not_ascii_are_found(texts: list[str], data: st.DataObject) -> None:
    names = [each.encode() for each in texts]
    buffer = np.frombuffer(b"\xff" * 9 + b"\xff".join(names) + b"\xff" * 9, np.uint8)
    length = np.array([len(each) for each in names])
    offset = 9 + np.cumsum(length + 1) - (length + 1)
    order = np.array(data.draw(st.permutations(range(len(names)))))
    last = int(offset[-1] + length[-1])
    found = NotAscii(buffer, 9, last).rows(Strings(offset[order], length[order]))
    sure = [place for place, row in enumerate(order) if not names[row].isascii()]
    unsure = [place for place, row in enumerate(order) if len(names[row]) > 57]
    assert found.tolist() == sorted({*sure, *unsure})


# The values, by hand.


def test_status_and_labels_of_any_type() -> None:
    enum = {"type": "enum", "name": "E", "symbols": ["timeout", "odd", "ok"]}
    schema = record_schema(status=["null", enum, "string"], model=["E", "string", "null"])
    records = [
        {"status": status, "model": model}
        for status in (None, ("E", "ok"), ("E", "odd"), "timeout", "errors", "error", "o", "")
        for model in (("E", "odd"), "gpt", None)
    ]
    records = [
        {key: value[1] if isinstance(value, tuple) else value for key, value in each.items()} for each in records
    ]
    datums = [write(schema, each) for each in records]
    assert left_over(schema, datums) == []


def test_the_score_is_found_among_keys_that_resemble_it() -> None:
    schema = record_schema(attributes={"type": "map", "values": ANY}, model="string")
    keys = ["eval.score", "eval.scorE", "Eval.score", "evalXscore", "eval.scor", "eval.scores", "xeval.score", ""]
    maps = [
        dict.fromkeys(keys[:n], 0.5) | dict.fromkeys(keys[n:], value) for n in range(9) for value in (1, None, "x", 2.0)
    ]
    datums = [write(schema, {"attributes": each, "model": "m"}) for each in maps]
    assert left_over(schema, datums) == []
    _, columnar = both_decoders(schema, **THOROUGH)
    assert columnar is not None
    scores = [each["eval_score"] for each in spans_of(run(columnar, datums)[0])]
    assert scores[:3] == [1.0, None, scores[2]]
    assert np.isnan(scores[2])
    assert scores[4:] == [0.5] * 32


@pytest.mark.parametrize("shift", range(8))
def test_one_byte_that_is_not_ascii_is_found_wherever_it_is(shift: int) -> None:
    for length in range(1, 70):
        for place in {0, length // 2, length - 1}:
            data = b"x" * shift + b"x" * place + b"\xff" + b"x" * (length - 1 - place)
            bits = NotAscii(np.frombuffer(data + b"\xff" * 16, np.uint8), 0, len(data))
            assert bits.rows(Strings(np.array([shift]), np.array([length]))).tolist() == [0]


@given(st.lists(st.one_of(st.text(max_size=9).map(str.encode), st.binary(max_size=5)), max_size=20))
def test_strings_that_are_no_utf8_are_found(names: list[bytes]) -> None:
    length = np.array([len(each) for each in names], np.int64)
    strings = Strings(np.cumsum(length) - length, length)
    found = invalid_utf8(np.frombuffer(b"".join(names) + bytes(16), np.uint8), strings)
    assert found == [row for row, each in enumerate(names) if each.decode(errors="replace").encode() != each]


def test_many_long_names_are_looked_at_one_by_one() -> None:
    names = ["é" * 20_000] * 30
    datums = [string(name) for name in names]
    datums[5] = string("é" * 20_000 + "x")[:-1] + b"\xff"
    assert left_over(record_schema(model="string"), datums) == [5]


def test_rows_of_several_schemas_lie_between_each_other() -> None:
    """A schema's messages are no stretch of the batch, and each must come out in its own row."""
    rng = random.Random(6)
    records = [random_span(rng) for _ in range(600)]
    schema = {**SPAN_SCHEMA, "name": "Other", "fields": SPAN_SCHEMA["fields"][::-1]}
    parsed = fastavro.parse_schema(schema)
    values = [message(each) if rng.random() < 0.5 else b"\0\0\0\0\7" + datum(each, parsed) for each in records]
    values[10:10] = [b"", b"\0\0\0\0\7", None, b"junk"]  # type: ignore[list-item]

    class Schemas(WriterSchemas):
        def get(self, key: Any) -> Any:
            return schema if key.kind == "id" else super().get(key)

    decoders = [SpanDecoder(Schemas(), columnar=columnar) for columnar in (True, False)]
    (fast, slow) = (each.decode(values) for each in decoders)
    assert spans_of(fast.spans) == spans_of(slow.spans)
    assert fast.spans.row.tolist() == slow.spans.row.tolist()
    assert fast.rejects == slow.rejects
    assert len(fast.rejects) == 4
    assert {path for _, path in decoders[0].paths} == {"columnar"}
    assert {path for _, path in decoders[1].paths} == {"fastavro"}
