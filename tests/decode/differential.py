"""Differential checks: for any bytes, the columnar decoder gives the results of fastavro, the reference.

The functions compare both decoders on one batch, and find the messages that the columnar decoder left to fastavro.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokentrace.decode import SchemaDecoder
from tokentrace.decode.columnar.decoder import ColumnarDecoder
from tokentrace.decode.fastavro_decoder import FastavroDecoder
from tokentrace.decode.resolve import resolve
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import ATTRIBUTE
from tokentrace.model.messages import Reject
from tokentrace.model.spans import FLOAT_FIELDS, INT_FIELDS, STRING_FIELDS, SpanBatch, SpanColumns, Strings
from tokentrace.model.text_combinations import KnownTexts, TextCombinations

#: Options that keep small batches on the fast path, so that a few messages show what many would.
THOROUGH = {"min_rows": 0, "sparse_rows": 0}


#: Sources of dimensions that every comparison reads.
TEXTS = (
    *(f"attributes.{key}" for key in ("team", "eval.score", "gpt-4o", "claude-sonnet-4-20250514")),
    *(f"span.{field}" for field in ("x0", "x1", "name", "model", "prompt_tokens")),
)


def both_decoders(schema: Any, **options: int) -> tuple[FastavroDecoder, ColumnarDecoder | None]:
    resolution = resolve(schema, texts=TEXTS)
    reference = FastavroDecoder(schema, resolution)
    return reference, ColumnarDecoder.compile(schema, resolution, reference, **options)


def run(
    decoder: SchemaDecoder,
    datums: Sequence[bytes],
    rows: Sequence[int] | None = None,
    stale: bool = False,
    combinations: TextCombinations | None = None,
) -> tuple[SpanBatch, list[Reject]]:
    """Decode datums into rows. Returns (spans, rejects).

    stale: the columns hold other values beforehand. combinations: those that earlier batches had.
    """
    order = np.arange(len(datums)) if rows is None else np.array(rows, np.int64)
    size = int(order.max(initial=-1)) + 1
    buffer = np.frombuffer(b"".join(datums) + bytes(PADDING), np.uint8)
    end = np.cumsum([len(datum) for datum in datums], dtype=np.int64)
    start = end - [len(datum) for datum in datums]
    known = None if combinations is None else KnownTexts(np.zeros(size, np.int64), combinations)
    columns = SpanColumns(size, buffer, TEXTS, known)
    if stale:
        columns.status[:] = 1
        for name in STRING_FIELDS:
            getattr(columns, name).offset[:], getattr(columns, name).length[:] = 2, 5
        for name in (*INT_FIELDS, *FLOAT_FIELDS):
            getattr(columns, name).values[:], getattr(columns, name).present[:] = 7, True
    rejects = decoder.decode_into(columns, order, start, end)
    keep = np.zeros(size, np.bool_)
    keep[order] = True
    keep[[reject.row for reject in rejects]] = False
    return columns.select(keep), rejects


def assert_agreement(
    schema: Any, datums: Sequence[bytes], reference: FastavroDecoder, columnar: ColumnarDecoder, **how: Any
) -> int:
    """Compare every column of every row, and every reject. Returns the number of rejects."""
    case = f"{schema!r}\n{[datum.hex() for datum in datums]}"
    want = run(reference, datums, stale=True, **how)
    assert_equal(run(columnar, datums, stale=True, **how), want, case)
    # Again with what the messages before had: first nothing, then themselves.
    combinations = attribute_combinations(TEXTS)
    for _ in range(2):
        assert_equal(run(columnar, datums, stale=True, combinations=combinations, **how), want, case)
        if not combinations.forms:
            break
        try_again(combinations)
    return len(want[1])


def attribute_combinations(texts: Sequence[str], hash_bits: int = 64) -> TextCombinations:
    return TextCombinations([source for source in texts if source.startswith(ATTRIBUTE)], hash_bits)


def try_again(combinations: TextCombinations) -> None:
    """Let the next batch be looked up, whatever the last one had."""
    for memory in combinations.remembered.values():
        memory._wait = 0


def assert_equal(found: tuple[SpanBatch, list[Reject]], wanted: tuple[SpanBatch, list[Reject]], case: str = "") -> None:
    """Compare every column of every row, and every reject."""
    (got, rejects), (want, want_rejects) = found, wanted
    assert rejects == want_rejects, case
    assert np.array_equal(got.row, want.row), case
    assert np.array_equal(got.status, want.status), case
    for name in STRING_FIELDS:
        assert texts(got, name) == texts(want, name), f"{name}: {case}"
    for source in TEXTS:
        assert text_values(got, source) == text_values(want, source), f"{source}: {case}"
    for name in (*INT_FIELDS, *FLOAT_FIELDS):
        numbers, others = getattr(got, name), getattr(want, name)
        assert np.array_equal(numbers.present, others.present), f"{name}: {case}"
        # Bits are compared: NaN equals NaN, and -0.0 differs from 0.0.
        assert np.array_equal(numbers.values.view(np.int64), others.values.view(np.int64)), f"{name}: {case}"
    assert got.optional.keys() == want.optional.keys(), case
    for name, column in want.optional.items():
        assert np.array_equal(got.optional[name].present, column.present), f"{name}: {case}"
        assert np.array_equal(got.optional[name].values, column.values), f"{name}: {case}"
    assert got.modifiers.keys() == want.modifiers.keys(), case
    for name in want.modifiers:
        assert texts(got, name) == texts(want, name), f"{name}: {case}"


def text_values(batch: SpanBatch, source: str) -> list[bytes]:
    """Return the text of each span, from its column or from its combination."""
    values = strings_of(batch, batch.texts[source])
    if batch.known is not None and source in batch.known.combinations.sources:
        place = batch.known.combinations.sources.index(source)
        for row, number in enumerate(batch.known.number.tolist()):
            if number:
                values[row] = batch.known.combinations.texts[number][place]
    return values


def texts(batch: SpanBatch, name: str) -> list[bytes]:
    return strings_of(batch, batch.modifiers.get(name) or getattr(batch, name))


def strings_of(batch: SpanBatch, strings: Strings) -> list[bytes]:
    data = batch.buffer.tobytes()
    return [
        data[offset : offset + length]
        for offset, length in zip(strings.offset.tolist(), strings.length.tolist(), strict=True)
    ]


class Recorder(FastavroDecoder):
    """Fastavro decoder that records the rows that it decodes."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema, resolve(schema, texts=TEXTS))
        self.rows: list[int] = []

    def decode_into(self, columns: SpanColumns, rows: Any, start: Any, end: Any) -> list[Reject]:
        self.rows += rows.tolist()
        return super().decode_into(columns, rows, start, end)


def fallback_rows(schema: Any, datums: Sequence[bytes], **options: int) -> list[int]:
    """Return the rows that the columnar decoder leaves to fastavro, after asserting that both agree."""
    recorder = Recorder(schema)
    columnar = ColumnarDecoder.compile(schema, resolve(schema, texts=TEXTS), recorder, **(THOROUGH | options))
    assert columnar is not None
    run(columnar, datums)
    rows, recorder.rows = recorder.rows, []
    assert_agreement(schema, datums, FastavroDecoder(schema, resolve(schema, texts=TEXTS)), columnar)
    return rows
