"""Joining batches: the spans of messages that different decoders have read, as one batch in the messages' order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokentrace.model.messages import WHOLE_MESSAGE
from tokentrace.model.spans import COLUMNS, Numbers, SpanBatch, Strings
from tokentrace.model.text_combinations import IN_COLUMNS, KnownTexts


def joined(first: SpanBatch, second: SpanBatch) -> SpanBatch:
    """Return the spans of both, of the same messages, by message and by their place in it."""
    if not len(first):
        return second
    if not len(second):
        return first
    m, n = len(first), len(second)
    shift = len(first.buffer)

    def column(ours: Any, theirs: Any) -> Any:
        if isinstance(ours or theirs, Strings):
            ours, theirs = ours or _no_strings(m), theirs or _no_strings(n)
            offset = np.concatenate([ours.offset, theirs.offset + shift])
            return Strings(offset, np.concatenate([ours.length, theirs.length]))
        ours, theirs = ours or _no_numbers(m), theirs or _no_numbers(n)
        values = np.concatenate([ours.values, theirs.values])
        return Numbers(values, np.concatenate([ours.present, theirs.present]))

    def columns(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: column(ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}

    row = np.concatenate([first.row, second.row])
    part = np.concatenate([_parts(first), _parts(second)])
    both = SpanBatch(
        buffer=np.concatenate([first.buffer, second.buffer]),
        row=row,
        status=np.concatenate([first.status, second.status]),
        columns={name: column(getattr(first, name), getattr(second, name)) for name in COLUMNS},
        optional=columns(first.optional, second.optional),
        modifiers=columns(first.modifiers, second.modifiers),
        texts=columns(first.texts, second.texts),
        part=part,
        known=_known(first, second),
    )
    return both.take(np.lexsort((part, row)))


def _known(first: SpanBatch, second: SpanBatch) -> KnownTexts | None:
    """Return the combinations of both. At most one of them has any: it is the one in a form of Avro."""
    assert first.known is None or second.known is None
    known = first.known or second.known
    if known is None:
        return None
    numbers = [
        np.full(len(spans), IN_COLUMNS, np.int64) if spans.known is None else spans.known.number
        for spans in (first, second)
    ]
    return KnownTexts(np.concatenate(numbers), known.combinations)


def _parts(spans: SpanBatch) -> NDArray[np.int64]:
    return np.full(len(spans), WHOLE_MESSAGE) if spans.part is None else spans.part


def _no_strings(n: int) -> Strings:
    return Strings(np.zeros(n, np.int64), np.zeros(n, np.int64))


def _no_numbers(n: int) -> Numbers:
    return Numbers(np.zeros(n, np.int64), np.zeros(n, np.bool_))
