"""Text sources: where the texts of a batch's dimensions are, one column for each source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tokentrace.aggregate.combinations import Texts
from tokentrace.model.arrays import PADDING
from tokentrace.model.dimensions import ATTRIBUTE, FIELD, HEADER, KEY
from tokentrace.model.messages import RawBatch
from tokentrace.model.snapshot import BASE_LABELS
from tokentrace.model.spans import SpanBatch, Strings
from tokentrace.model.text_combinations import IN_COLUMNS, KnownTexts

_LABELS: Final = {FIELD + label: label for label in BASE_LABELS}


class SpanTexts(NamedTuple):
    """The texts of m spans. columns: of each dimension. known: the spans whose columns have nothing; None for none."""

    columns: Sequence[Texts]
    known: KnownTexts | None = None


class TextSources:
    """Finds the texts of the sources of all dimensions."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self._attributes = [source for source in sources if source.startswith(ATTRIBUTE)]

    def of(self, spans: SpanBatch, buffer: NDArray[np.uint8], batch: RawBatch) -> SpanTexts:
        """Return the texts of m spans.

        spans: as they were decoded, of this batch. buffer: begins with that of the spans.
        """
        found: dict[str, Texts] = {}
        known = spans.known
        if known is not None and len(self._attributes) < len(self._sources):
            found, known = _in_columns(self._attributes, spans, buffer, known), None
        for source in self._sources:
            if source in found:
                continue
            if source in _LABELS:
                found[source] = Texts(buffer, getattr(spans, _LABELS[source]))
            elif source == KEY:
                found[source] = _joined(batch.all_keys(), spans.row)
            elif source.startswith(HEADER):
                found[source] = _joined(batch.all_headers(source.removeprefix(HEADER)), spans.row)
            else:
                found[source] = Texts(buffer, spans.texts[source])
        return SpanTexts([found[source] for source in self._sources], known)


def _in_columns(
    sources: Sequence[str], spans: SpanBatch, buffer: NDArray[np.uint8], known: KnownTexts
) -> dict[str, Texts]:
    """Return the texts of attributes of all spans in columns, those of known combinations as well."""
    number = known.number
    occurs = np.zeros(len(known.combinations), np.bool_)
    occurs[number] = True
    numbers = np.flatnonzero(occurs[1:]) + 1
    row = np.zeros(len(occurs), np.int64)
    row[numbers] = np.arange(len(numbers))
    row = row.take(number)
    missing = np.flatnonzero(number == IN_COLUMNS)
    found = {}
    for source in sources:
        texts, strings = known.combinations.column(source, numbers.tolist())
        if not len(numbers):
            found[source] = Texts(buffer, spans.texts[source])
            continue
        offset, length = strings.offset.take(row), strings.length.take(row)
        if len(missing):
            strings = spans.texts[source].take(missing)
            offset[missing], length[missing] = strings.offset + len(texts), strings.length
            texts = np.concatenate([texts, buffer])
        found[source] = Texts(texts, Strings(offset, length))
    return found


def _joined(values: Sequence[bytes | str | None], rows: NDArray[np.int64]) -> Texts:
    """Return the values of the messages at rows (int64[m]) as texts. Runs no Python code per message of bytes."""
    if set(map(type, values)) <= {bytes}:
        data = cast("Sequence[bytes]", values)
    else:
        data = [value.encode() if isinstance(value, str) else value or b"" for value in values]
    length = np.fromiter(map(len, data), np.int64, len(data))
    offset = np.cumsum(length) - length
    buffer = np.frombuffer(b"".join(data) + bytes(PADDING), np.uint8)
    return Texts(buffer, Strings(offset[rows], length[rows]))
