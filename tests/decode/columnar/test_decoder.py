"""The columnar decoder against the reference: any schema, any bytes, any order, the same columns and rejects."""

from __future__ import annotations

import random
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.differential import TEXTS, THOROUGH, Recorder, assert_agreement, both_decoders, fallback_rows, run
from tests.decode.generate import Generator
from tests.decode.helpers import record_schema, spans_of, write
from tests.spanfactory import SPAN_SCHEMA, datum, message, random_span
from tokentrace.decode import SpanDecoder
from tokentrace.decode.columnar.compile import MAX_DEPTH, MAX_WIDTH
from tokentrace.decode.columnar.decoder import ColumnarDecoder
from tokentrace.decode.resolve import resolve
from tokentrace.decode.schemas.store import WriterSchemas

ANY = ["null", "boolean", "int", "long", "float", "double", "string", "bytes", {"type": "array", "items": "int"}]


# The law.


def random_batch(seed: int) -> tuple[random.Random, Any, list[bytes]]:
    """A schema and datums of it, of which none, some or all are damaged."""
    rng = random.Random(seed)
    generator = Generator(rng)
    schema = generator.schema()
    wild = rng.random() < 0.5
    datums = [generator.datum(schema, wild) for _ in range(rng.choice((1, 2, 9, 30)))]
    share = rng.choice((0.0, 0.3, 1.0))
    return rng, schema, [generator.damage(datum, datums) if rng.random() < share else datum for datum in datums]


SEEDS = st.integers(0, 2**64 - 1)


@given(SEEDS)
def test_columnar_equals_fastavro_for_any_schema_and_any_bytes(seed: int) -> None:
    rng, schema, datums = random_batch(seed)
    options = rng.choice((THOROUGH, THOROUGH, THOROUGH | {"chunk_rows": 4}, {"min_rows": 0, "max_sparse_rounds": 3}))
    reference, columnar = both_decoders(schema, **options)
    if columnar is not None:
        assert_agreement(schema, datums, reference, columnar)


@given(SEEDS, st.sampled_from([True, False]))
def test_columnar_equals_fastavro_for_damaged_spans(seed: int, wild: bool) -> None:
    generator = Generator(rng := random.Random(seed))
    datums = [generator.datum(SPAN_SCHEMA, wild) for _ in range(20)]
    datums = [generator.damage(datum, datums) if rng.random() < 0.3 else datum for datum in datums]
    reference, columnar = both_decoders(SPAN_SCHEMA, **THOROUGH)
    assert columnar is not None
    assert_agreement(SPAN_SCHEMA, datums, reference, columnar)


@given(SEEDS)
def test_results_do_not_depend_on_order_or_batches(seed: int) -> None:
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
    assert {reject.row: (reject.reason, reject.error) for reject in rejects} == errors


@given(SEEDS)
def test_a_recursive_schema_is_left_to_fastavro(seed: int) -> None:
    schema = Generator(random.Random(seed)).schema(recursive=True)
    resolution = resolve(schema)
    columnar = ColumnarDecoder.compile(schema, resolution)
    assert columnar is None or not (resolution.recursive or resolution.unbounded)


def test_generated_batches_exercise_the_fast_path_and_rejects() -> None:
    """A comparison shows nothing where every message is left to the reference, or where none is wrong."""
    fast = slow = wrong = 0
    for seed in range(300):
        _, schema, datums = random_batch(seed)
        recorder = Recorder(schema)
        columnar = ColumnarDecoder.compile(schema, resolve(schema, texts=TEXTS), recorder, **THOROUGH)
        if columnar is not None:
            _, rejects = run(columnar, datums)
            slow += len(recorder.rows)
            fast += len(datums) - len(recorder.rows)
            wrong += len(rejects)
    assert min(fast, wrong) > 1000
    assert slow < 1.2 * wrong


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
def test_a_schema_has_a_columnar_form(schema: Any, has_one: bool) -> None:
    assert (both_decoders(schema)[1] is not None) == has_one


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
        {key: value[1] if isinstance(value, tuple) else value for key, value in record.items()} for record in records
    ]
    datums = [write(schema, record) for record in records]
    assert fallback_rows(schema, datums) == []


def test_the_score_is_found_among_keys_that_resemble_it() -> None:
    schema = record_schema(attributes={"type": "map", "values": ANY}, model="string")
    keys = ["eval.score", "eval.scorE", "Eval.score", "evalXscore", "eval.scor", "eval.scores", "xeval.score", ""]
    maps = [
        dict.fromkeys(keys[:n], 0.5) | dict.fromkeys(keys[n:], value) for n in range(9) for value in (1, None, "x", 2.0)
    ]
    datums = [write(schema, {"attributes": attributes, "model": "m"}) for attributes in maps]
    assert fallback_rows(schema, datums) == []
    _, columnar = both_decoders(schema, **THOROUGH)
    assert columnar is not None
    scores = [span_["eval_score"] for span_ in spans_of(run(columnar, datums)[0])]
    assert scores[:3] == [1.0, None, scores[2]]
    assert np.isnan(scores[2])
    assert scores[4:] == [0.5] * 32


def test_rows_of_several_schemas_may_be_interleaved() -> None:
    """A schema's messages are no stretch of the batch, and each must come out in its own row."""
    rng = random.Random(6)
    records = [random_span(rng) for _ in range(600)]
    schema = {**SPAN_SCHEMA, "name": "Other", "fields": SPAN_SCHEMA["fields"][::-1]}
    parsed = fastavro.parse_schema(schema)
    values = [message(record) if rng.random() < 0.5 else b"\0\0\0\0\7" + datum(record, parsed) for record in records]
    values[10:10] = [b"", b"\0\0\0\0\7", None, b"junk"]  # type: ignore[list-item]

    class Schemas(WriterSchemas):
        def get(self, key: Any) -> Any:
            return schema if key.kind == "id" else super().get(key)

    decoders = [SpanDecoder(Schemas(), columnar=columnar) for columnar in (True, False)]
    (fast, slow) = (decoder.decode(values) for decoder in decoders)
    assert spans_of(fast.spans) == spans_of(slow.spans)
    assert fast.spans.row.tolist() == slow.spans.row.tolist()
    assert fast.rejects == slow.rejects
    assert len(fast.rejects) == 4
    assert {path for _, path in decoders[0].paths} == {"columnar"}
    assert {path for _, path in decoders[1].paths} == {"fastavro"}
